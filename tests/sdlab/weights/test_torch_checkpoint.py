"""Checkpoints are read without executing them: tensors are returned, the rest is inert, damage is reported."""

import collections
import importlib
import io
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sdlab.system.errors import RunError, SdlabError, UsageError
from sdlab.weights import torch_checkpoint as checkpoint
from sdlab.weights.stored_tensor import StoredTensor, dense

TENSORS = {
    "matrix": torch.randn(3, 4),
    "parameter": torch.nn.Parameter(torch.randn(2)),
    "scalar": torch.tensor(3.0),
    "empty": torch.empty(0, 3),
    "every other": torch.arange(20.0)[3:11:2],
    "transposed": torch.randn(3, 5).T,
    "repeated": torch.randn(1, 4).expand(3, 4),
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    **{
        str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
    },
}
GOOD = {"weight": torch.arange(6.0).reshape(2, 3)}


def read(path):
    return {name: stored.read() for name, stored in checkpoint.read(path).items()}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor.detach())


# What torch.save stores


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"state_dict": t, "epoch": 8, "lr": [1e-4, (2, None)]}])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_come_back_as_they_were(tmp_path, wrap, protocol):
    torch.save(wrap(TENSORS), tmp_path / "a.ckpt", pickle_protocol=protocol)
    assert_same(read(tmp_path / "a.ckpt"), TENSORS)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: {"model": t, "optimizer": {"lr": 1}},
        lambda t: {"epoch": 3, "model_state_dict": t},
        lambda t: {"module": {"state_dict": t}, "ds_version": "0.9"},
        lambda t: {"state_dict": {"state_dict": {"model": t}}},
    ],
)
def test_weights_may_be_nested_as_training_frameworks_save_them(tmp_path, wrap):
    torch.save(wrap(TENSORS), tmp_path / "a.ckpt")
    assert_same(read(tmp_path / "a.ckpt"), TENSORS)


def test_a_state_that_contains_itself_has_no_tensors(tmp_path):
    state = {"epoch": 3}
    state["state_dict"] = {"model": state}
    torch.save(state, tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match="has no tensors"):
        read(tmp_path / "a.ckpt")


def test_the_state_of_a_module_comes_back(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    state = module.state_dict()
    assert isinstance(state, collections.OrderedDict)
    torch.save(state, tmp_path / "a.bin")
    assert_same(read(tmp_path / "a.bin"), state)


def test_numbers_stay_in_the_file_until_they_are_read(tmp_path):
    torch.save(GOOD, tmp_path / "a.ckpt")
    stored = checkpoint.read(tmp_path / "a.ckpt")["weight"]
    assert (stored.shape, stored.dtype) == ((2, 3), torch.float32)
    data = bytearray((tmp_path / "a.ckpt").read_bytes())
    data[stored.offset : stored.offset + 4] = np.float32(42).tobytes()
    (tmp_path / "a.ckpt").write_bytes(data)
    assert stored.read()[0, 0] == 42


def test_writing_to_a_tensor_that_was_read_leaves_the_file_alone(tmp_path):
    torch.save(GOOD, tmp_path / "a.ckpt")
    before = (tmp_path / "a.ckpt").read_bytes()
    checkpoint.read(tmp_path / "a.ckpt")["weight"].read().zero_()
    assert (tmp_path / "a.ckpt").read_bytes() == before


def test_strides_of_a_tensor_without_gaps():
    for shape in [(), (5,), (2, 3, 4), (1, 1), (7, 1, 2)]:
        assert dense(shape) == torch.empty(shape).stride()


def test_a_stored_tensor_gains_and_loses_axes_of_length_1(tmp_path):
    (tmp_path / "six").write_bytes(torch.arange(6.0).numpy().tobytes())
    for stride in ((3, 1), (1, 2)):  # the second is transposed in the file
        stored = StoredTensor(tmp_path / "six", 0, (2, 3), stride, torch.float32)
        assert torch.equal(stored.with_axes(4).read(), stored.read().reshape(2, 3, 1, 1))
        assert stored.with_axes(4).with_axes(2) == stored.with_axes(2) == stored
    with pytest.raises(ValueError, match=r"a tensor of shape \(2, 3\) cannot have 1 axes"):
        stored.with_axes(1)


# Objects of other packages

FOREIGN = """
from pathlib import Path
Path(__file__).with_name("imported").touch()
class ModelCheckpoint:
    def __init__(self): self.best, self.seen = 0.5, {1, 2}
class Listed(list): pass
class Keyed(dict): pass
class Reduced:
    def __reduce__(self): return Reduced, (), {"a": 1}, iter([1, 2]), iter([("k", 3)])
    def append(self, value): pass
    def __setitem__(self, key, value): pass
def function(): pass
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A package that exists when the checkpoint is written and leaves a mark when it is imported."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "training_framework.py").write_text(FOREIGN)
    yield importlib.import_module("training_framework")
    sys.modules.pop("training_framework", None)


@pytest.mark.parametrize("importable", [False, True])
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_checkpoint_with_objects_of_other_packages_is_read(tmp_path, foreign, protocol, importable):
    content = {
        "callbacks": {foreign.ModelCheckpoint: {"best": np.float64(0.5), "array": np.arange(3)}},
        "objects": [foreign.ModelCheckpoint(), foreign.Listed([1]), foreign.Keyed(a=1), foreign.Reduced()],
        "function": foreign.function,
        "path": Path("x"),
        "state_dict": {**GOOD, "note": foreign.ModelCheckpoint()},
        "optimizer_states": [{"state": {0: torch.zeros(3, dtype=torch.complex64)}}],
    }
    torch.save(content, tmp_path / "a.ckpt", pickle_protocol=protocol)
    del sys.modules["training_framework"]
    (tmp_path / "imported").unlink()
    if not importable:
        (tmp_path / "training_framework.py").unlink()
        with pytest.raises(ModuleNotFoundError):
            torch.load(tmp_path / "a.ckpt", weights_only=False)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert_same(read(tmp_path / "a.ckpt"), GOOD)
    assert "training_framework" not in sys.modules
    assert not (tmp_path / "imported").exists()


class Payload:
    """An object whose pickle is a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        function, *arguments = self.call
        return function, tuple(arguments)


PAYLOADS = {
    "os.system": lambda mark: Payload(os.system, f"touch {mark}"),
    "builtins.eval": lambda mark: Payload(eval, f"open({str(mark)!r}, 'w')"),
    "builtins.exec": lambda mark: Payload(exec, f"open({str(mark)!r}, 'w')"),
    "builtins.open": lambda mark: Payload(open, str(mark), "w"),
    "subprocess": lambda mark: Payload(subprocess.call, ["touch", str(mark)]),
    "a method": lambda mark: Payload(Path.touch, mark),
}


@pytest.mark.parametrize("place", ["beside the weights", "among the weights", "as a name", "as the whole"])
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_nothing_of_a_checkpoint_is_executed(tmp_path, payload, place):
    mark = tmp_path / "executed"
    bomb = payload(mark)
    content = {
        "beside the weights": {"state_dict": GOOD, "callbacks": [bomb]},
        "among the weights": {"state_dict": {"x": bomb, **GOOD}},
        "as a name": {"state_dict": GOOD, "names": {bomb: 1}},
        "as the whole": bomb,
    }[place]
    torch.save(content, tmp_path / "a.ckpt")
    if place != "as the whole":
        assert_same(read(tmp_path / "a.ckpt"), GOOD)
    else:
        with pytest.raises(UsageError, match="has no tensors"):
            read(tmp_path / "a.ckpt")
    assert not mark.exists()
    torch.load(tmp_path / "a.ckpt", weights_only=False)  # the payload is a real one
    assert mark.exists()


def with_pickle(path, data):
    """A checkpoint whose pickle is `data`, with one storage of six float32 numbers."""
    torch.save(GOOD, path)
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, data if name.endswith("data.pkl") else content)


CALLS = [
    b"cos\nsystem\n(S'touch MARK'\ntR.",  # GLOBAL, REDUCE
    b"(S'touch MARK'\nios\nsystem\n.",  # INST
    b"(cos\nsystem\nS'touch MARK'\no.",  # OBJ
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0atouch MARK\x85R.",  # STACK_GLOBAL
    b"\x80\x02csubprocess\nPopen\n)\x81}S'args'\nI1\nsb0cos\nsystem\nU\x0atouch MARK\x85R.",  # NEWOBJ, BUILD
]
TRICKS = [
    b"\x80\x02cos\nsystem\nU\x0atouch MARK\x85\x81.",
    b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'__defaults__'\nI1\nstb.",  # BUILD on a stand-in
    b"ccollections\nOrderedDict\n}S'get'\nI1\nsb.",
    b"ccollections\nOrderedDict\n)R}S'get'\ncos\nsystem\nsb.",
    b"ctorch\nFloatStorage\n}S'itemsize'\nI1\nsb.",
    b"\x80\x02\x82\x01.",  # a code of the extension registry
    b"(S'storage'\ncos\nsystem\nS'0'\nS'cpu'\nI6\ntQ.",  # a storage of no known type
    b"((((((tttttt.",
    b"",
    b"\x80",
    b"garbage",
]


@pytest.mark.parametrize("data", CALLS + TRICKS)
def test_no_opcode_reaches_past_the_stand_ins(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    with_pickle(tmp_path / "bad.ckpt", data)
    with pytest.raises(SdlabError, match=r"bad\.ckpt") as error:
        read(tmp_path / "bad.ckpt")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "MARK").exists()
    torch.save(TENSORS, tmp_path / "good.ckpt")
    assert_same(read(tmp_path / "good.ckpt"), TENSORS)  # and nothing of it stays behind


@pytest.mark.parametrize("data", CALLS)
def test_those_opcodes_do_call(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    pickle.loads(data)
    assert (tmp_path / "MARK").exists()


def test_the_size_of_a_memo_is_not_taken_from_the_pickle(tmp_path):
    data = tensor_pickle().replace(b"\x80\x02}", b"\x80\x02}r\x00\x00\x00\x08")  # LONG_BINPUT 2²⁷: a gigabyte in C
    with_pickle(tmp_path / "a.ckpt", data)
    tracemalloc.start()
    assert_same(read(tmp_path / "a.ckpt"), GOOD)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


DOUBLED = b"N" + b"q\x00h\x00\x86" * 100  # each tuple is the previous one, twice: 2¹⁰⁰ objects
HASHED = {
    "a key": b"}" + DOUBLED + b"Ns",
    "a key among others": b"}(X\x01\x00\x00\x00a" + b"N" + DOUBLED + b"Nu",
    "a key of a dictionary made at once": b"(" + DOUBLED + b"Nd",
    "a key of an OrderedDict": b"ccollections\nOrderedDict\n](" + DOUBLED + b"N\x86e\x85R",
    "an element of a set": b"\x8f(" + DOUBLED + b"\x90",
    "an element of a frozenset": b"(" + DOUBLED + b"\x91",
    "an attribute": b"ccollections\nOrderedDict\n)R}" + DOUBLED + b"Nsb",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("data", HASHED.values(), ids=HASHED)
def test_tuples_that_double_at_each_level_are_not_hashed(tmp_path, data):
    weights = tensor_pickle()
    with_pickle(tmp_path / "a.ckpt", b"\x80\x04(" + data + b"0" + weights.removeprefix(b"\x80\x02"))
    assert_same(read(tmp_path / "a.ckpt"), GOOD)


@pytest.mark.timeout(20)
def test_copies_of_a_dictionary_take_no_memory(tmp_path):
    entries = b"".join(b"X\x04\x00\x00\x00%04dN" % n for n in range(1000))
    copies = b"ccollections\nOrderedDict\nq\x010" + b"h\x01h\x00\x85R" * 10_000
    data = b"\x80\x04(}q\x00(" + entries + b"u" + copies + tensor_pickle().removeprefix(b"\x80\x02")
    with_pickle(tmp_path / "a.ckpt", data)
    tracemalloc.start()
    assert_same(read(tmp_path / "a.ckpt"), GOOD)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # 10,000 copies of 1,000 entries would take more than 300 MB


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_checkpoint_with_the_state_of_an_optimizer_is_read(tmp_path, protocol):
    """Its keys are numbers. Other keys of a training state may be tuples, sets or types."""
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "optimizer": optimizer.state_dict(),
        0: {"state_dict": "of another kind"},
        ("a", (1, 2.5)): {3},
        frozenset({1}): None,
        None: {},
        torch.float32: 1,
        "state_dict": module.state_dict(),
    }
    assert set(content["optimizer"]["state"]) == {0, 1}
    torch.save(content, tmp_path / "a.ckpt", pickle_protocol=protocol)
    assert_same(read(tmp_path / "a.ckpt"), module.state_dict())


# Damage


def tensor_pickle(storage=("FloatStorage", "0", 6), offset=0, shape=(2, 3), stride=(3, 1)):
    """The pickle of {"weight": tensor} with this description, written by hand."""
    kind, key, numel = storage
    parts = [b"\x80\x02}X\x06\x00\x00\x00weightctorch._utils\n_rebuild_tensor_v2\n(("]
    parts += [b"S'storage'\nctorch\n%s\nS'%s'\nS'cpu'\nI%d\ntQ" % (kind.encode(), key.encode(), numel)]
    parts += [b"I%d\n(%st(%st" % (offset, *(b"".join(b"I%d\n" % n for n in axes) for axes in (shape, stride)))]
    return b"".join(parts) + b"\x89NtRs."


def test_a_pickle_written_by_hand_is_read(tmp_path):
    with_pickle(tmp_path / "a.ckpt", tensor_pickle())
    assert_same(read(tmp_path / "a.ckpt"), GOOD)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"storage": ("FloatStorage", "0", 7)}, None),  # what the tensor needs is there
        ({"storage": ("FloatStorage", "0", 5)}, "extends beyond the 20 bytes of its storage"),
        ({"storage": ("DoubleStorage", "0", 6)}, "extends beyond the 24 bytes of its storage"),
        ({"storage": ("FloatStorage", "1", 6)}, "the storage of tensor 'weight' is missing"),
        ({"storage": ("FloatStorage", "../version", 6)}, "the storage of tensor 'weight' is missing"),
        ({"storage": ("FloatStorage", "0", -6)}, "is not in the format of torch.save"),
        ({"offset": 1}, "extends beyond the 24 bytes of its storage"),
        ({"offset": -1}, "is not in the format of torch.save"),
        ({"shape": (3, 3)}, "extends beyond"),
        ({"shape": (2, -3)}, "is not in the format of torch.save"),
        ({"shape": (2,)}, "is not in the format of torch.save"),
        ({"stride": (4, 1)}, "extends beyond"),
        ({"stride": (-3, 1)}, "is not in the format of torch.save"),
        ({"shape": (2**40, 2**40)}, "extends beyond"),
    ],
)
def test_a_tensor_lies_inside_its_storage(tmp_path, description, message):
    with_pickle(tmp_path / "a.ckpt", tensor_pickle(**description))
    if message is None:
        assert_same(read(tmp_path / "a.ckpt"), GOOD)
        return
    with pytest.raises(RunError, match=message) as error:
        read(tmp_path / "a.ckpt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0005, 0.3, 0.9, 0.999, 0.9999])
def test_a_file_that_was_cut_short_is_named(tmp_path, share):
    torch.save({"weight": torch.randn(100, 100)}, tmp_path / "a.ckpt")
    data = (tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "a.ckpt").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(RunError, match=r"a.ckpt: this checkpoint is damaged or truncated \([\d,]+ bytes\)"):
        read(tmp_path / "a.ckpt")


def test_a_compressed_archive_is_named(tmp_path):
    torch.save(GOOD, tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "a.ckpt") as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "b.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(RunError, match=r"b.ckpt: '.*' is compressed; unpack the archive and zip it without"):
        read(tmp_path / "b.ckpt")


def test_an_archive_of_something_else_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("deep/down/data.pkl", b"N.")
    with pytest.raises(UsageError, match=r"a\.ckpt: this is a zip archive that was not written by torch.save"):
        read(tmp_path / "a.ckpt")


def test_checksums_that_torch_left_out_do_not_matter(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        buffer = io.BytesIO()
        torch.save(GOOD, buffer)
    finally:
        torch.serialization.set_crc32_options(before)
    (tmp_path / "a.ckpt").write_bytes(buffer.getvalue())
    assert_same(read(tmp_path / "a.ckpt"), GOOD)
