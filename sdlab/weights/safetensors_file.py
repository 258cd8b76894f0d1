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
_LARGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors library
_MOST_AXES = 64  # as many as PyTorch allows
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def read(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a file by name, and its metadata. Only the header is read.

    Raises:
        RunError: the file is damaged or truncated, or a dtype is unknown.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
                raise _damaged(path, f"its header of {length:,} bytes does not fit in {size:,} bytes")
            header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise _damaged(path, "its header is not JSON") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {reason(error)}") from None
    metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _damaged(path, "its header is not a table of tensors")
    tensors = {name: _tensor(path, name, entry, 8 + length) for name, entry in header.items()}
    end = 8 + length
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.extent)):
        if tensor.offset != end:
            raise _damaged(path, "the ranges of its tensors leave gaps or overlap")
        end += tensor.extent
    if end != size:
        raise _damaged(path, f"it has {size:,} bytes, and its header describes {end:,}")
    return tensors, metadata


def _tensor(path: Path, name: str, entry: object, start: int) -> StoredTensor:
    """The tensor that an entry of the header describes; data begin at byte `start` of the file."""
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(first), int(last)]} if all(
            type(n) is int and n >= 0 for n in (*shape, first, last)
        ):
            pass
        case _:
            raise _damaged(path, f"its header does not give dtype, shape and range of tensor {name!r}")
    if (dtype := DTYPES.get(code)) is None:
        raise RunError(f"{path}: tensor {name!r} has unknown dtype {code!r}; known: {', '.join(DTYPES)}")
    if len(shape) > _MOST_AXES or last - first != prod(shape) * dtype.itemsize:
        raise _damaged(path, f"the range of tensor {name!r} does not have the size of its shape")
    return StoredTensor(path, start + first, tuple(shape), dense(shape), dtype)


def _damaged(path: Path, why: str) -> RunError:
    return RunError(f"{path}: not a complete safetensors file: {why}; download or train it again")


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
