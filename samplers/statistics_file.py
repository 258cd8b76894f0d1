"""Files of model statistics: safetensors with l, m and r in float32, and where they are from as metadata.

The layout is that of safetensors: the length of the header in 8 bytes, a header in JSON, and the values.
"""

from __future__ import annotations

import json
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from samplers.model_statistics import Array, ModelStatistics

KIND = "sdlab model statistics"
_PARTS = ("linear", "mean", "spread")
_LONGEST = 1_000_000  # bytes of a header


def load_statistics(file: str) -> ModelStatistics:
    """The statistics of a file, read once while it does not change.

    Raises:
        ValueError: there is no such file, or it is not one of statistics.
    """
    path = Path(file).expanduser()
    try:
        state = path.stat()
        return _loaded(str(path), state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror or error}") from None


@lru_cache(maxsize=8)
def _loaded(file: str, changed: int, size: int) -> ModelStatistics:
    content = Path(file).read_bytes()
    try:
        length = int.from_bytes(content[:8], "little")
        if not 2 <= length <= min(_LONGEST, len(content) - 8):
            raise ValueError("no header")
        header = json.loads(content[8 : 8 + length])
        about = header["__metadata__"]
        if about["kind"] != KIND:
            raise ValueError("another kind")
        sigmas = tuple(float(sigma) for sigma in json.loads(about["sigmas"]))
        linear, mean, spread = (_values(header[name], memoryview(content)[8 + length :]) for name in _PARTS)
        origin = {str(key): str(value) for key, value in json.loads(about["origin"]).items()}
        return ModelStatistics(sigmas, linear, mean, spread, origin)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise ValueError(f"cannot use {file}: it is not a file of sdlab statistics, or it is damaged") from None


def _values(entry: dict[str, Any], content: memoryview) -> Array:
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    if entry["dtype"] != "F32" or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError("another type or shape")
    if not 0 <= begin <= end <= len(content) or end - begin != 4 * prod(shape):
        raise ValueError("another length")
    return np.frombuffer(content[begin:end], dtype="<f4").reshape(shape).astype(np.float64)


def statistics_bytes(statistics: ModelStatistics) -> bytes:
    """The content of a file of these statistics."""
    parts = [getattr(statistics, name).astype("<f4") for name in _PARTS]
    about = {"kind": KIND, "sigmas": json.dumps(statistics.sigmas), "origin": json.dumps(statistics.origin)}
    header: dict[str, Any] = {"__metadata__": about}
    begin = 0
    for name, values in zip(_PARTS, parts, strict=True):
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [begin, begin + values.nbytes]}
        begin += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(values.tobytes() for values in parts)
