"""Untrusted safetensors headers. Each is read as by the safetensors library, or refused in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdlab.system.errors import RunError
from sdlab.weights import safetensors_file

GOOD = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "U8", "shape": [4], "data_offsets": [24, 28]},
}


def write(path, header, data=bytes(28), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def test_every_dtype_and_shape_comes_back(tmp_path):
    tensors = {code: torch.arange(6).reshape(2, 3).to(dtype) for code, dtype in safetensors_file.DTYPES.items()} | {
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 3),
    }
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    found, metadata = safetensors_file.read(tmp_path / "a.safetensors")
    assert metadata == {"format": "pt"}
    assert found.keys() == tensors.keys()
    for name, wanted in load_file(tmp_path / "a.safetensors").items():
        tensor = found[name].read()
        assert tensor.dtype == wanted.dtype
        assert torch.equal(tensor.float(), wanted.float())


def test_a_header_written_by_hand_is_read(tmp_path):
    write(tmp_path / "a.safetensors", GOOD)
    assert {name: t.shape for name, t in safetensors_file.read(tmp_path / "a.safetensors")[0].items()} == {
        "a": (2, 3),
        "b": (4,),
    }


def change(name, **values):
    return GOOD | {name: GOOD[name] | values}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (change("a", shape=[-2, -3]), "does not give dtype, shape and range of tensor 'a'"),
        (change("a", shape=[2, 3.0]), "does not give dtype"),
        (change("a", shape=[True, 6]), "does not give dtype"),
        (change("a", shape="23"), "does not give dtype"),
        (change("a", shape=[2**70, 3]), "the range of tensor 'a' does not have the size of its shape"),
        (change("a", shape=[1] * 65 + [6]), "the range of tensor 'a'"),
        (change("a", shape=[6, 6]), "the range of tensor 'a'"),
        (change("a", dtype="F64"), "the range of tensor 'a'"),
        (change("a", dtype="F4\x1b[31m"), r"tensor 'a' has unknown dtype 'F4\\x1b\[31m'; known: F64"),
        (change("a", dtype=32), "does not give dtype"),
        (change("a", data_offsets=[24, 0]), "the range of tensor 'a'"),
        (change("a", data_offsets=[-24, 0]), "does not give dtype"),
        (change("a", data_offsets=[0]), "does not give dtype"),
        (change("b", data_offsets=[25, 29]), "leave gaps or overlap"),
        (change("b", data_offsets=[20, 24]), "leave gaps or overlap"),
        (change("b", shape=[5], data_offsets=[24, 29]), "and its header describes"),
        ({"a": GOOD["a"]}, "and its header describes"),
        ({"a": 3}, "does not give dtype"),
        (GOOD | {"__metadata__": 3}, "is not a table of tensors"),
        (GOOD | {"__metadata__": {"format": 3}}, "is not a table of tensors"),
        (b"[]", "is not a table of tensors"),
        (b"{ ", "its header is not JSON"),
        (b"[" * 100_000, "its header is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "its header is not JSON"),
        (b"\xff\xff", "its header is not JSON"),
    ],
)
def test_a_header_that_does_not_describe_its_file_is_one_line(tmp_path, header, message):
    write(tmp_path / "a.safetensors", header)
    with pytest.raises(RunError, match=message) as error:
        safetensors_file.read(tmp_path / "a.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**63, 2**64 - 1])
def test_the_length_of_a_header_is_within_the_file(tmp_path, length):
    write(tmp_path / "a.safetensors", GOOD, length=length)
    with pytest.raises(RunError, match=r"its header of [0-9,]+ bytes does not fit in [0-9,]+ bytes"):
        safetensors_file.read(tmp_path / "a.safetensors")
