"""Safetensors files: read as stored tensors, written one tensor at a time.

The format: 8 bytes with the length n of the header (little-endian), n bytes of JSON that map each name to dtype, shape
and the range of its bytes after the header, then those bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import accumulate, pairwise
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from sdlab.system.errors import RunError
from sdlab.system.files import reason, replacing
from sdlab.weights.stored_tensor import AnyTensor, StoredTensor, dense, fetch

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def read(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a file by name, and its metadata. Only the header is read.

    Raises:
        RunError: the file is damaged or truncated, or a dtype is unknown.
    """
    try:
        with safe_open(path, framework="pt"):  # checks that the header is valid and its ranges fill the file
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except SafetensorError as error:
        raise RunError(f"{path}: not a complete safetensors file ({error}); download or train it again") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {reason(error)}") from None
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        if (dtype := DTYPES.get(entry["dtype"])) is None:
            raise RunError(f"{path}: tensor {name!r} has unknown dtype {entry['dtype']}; known: {', '.join(DTYPES)}")
        shape = tuple(entry["shape"])
        tensors[name] = StoredTensor(path, 8 + length + entry["data_offsets"][0], shape, dense(shape), dtype)
    return tensors, metadata


def write(
    path: Path,
    tensors: Mapping[str, AnyTensor],
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors in `dtype`, or each in its stored dtype, with one in memory at a time.

    The file is written whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    # Widest elements first, as the safetensors library does, so that each tensor is aligned to its element size.
    names = sorted(tensors, key=lambda name: (-(dtype or tensors[name].dtype).itemsize, name))
    sizes = [(dtype or tensors[name].dtype).itemsize * prod(tensors[name].shape) for name in names]
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, span in zip(names, pairwise(accumulate(sizes, initial=0)), strict=True):
        code = _CODES[dtype or tensors[name].dtype]
        header[name] = {"dtype": code, "shape": list(tensors[name].shape), "data_offsets": list(span)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as draft, draft.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = fetch(tensors[name]).detach().to("cpu", dtype or tensors[name].dtype).contiguous()
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
