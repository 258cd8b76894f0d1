"""Digests of the weights that a stage builds on, by which a change of an earlier stage is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import torch

from sdlab.train.config import Training
from sdlab.weights import weights_file


def digests(config: Training) -> dict[str, str]:
    """The SHA-256 of the weights that the stage needs, by file. Files that are missing are left out.

    Raises:
        UsageError: a file has another format.
        RunError: a file is damaged.
    """
    found = {}
    for need in config.needs():
        path = Path(config.model) / need.file
        if path.is_file():
            state = path.stat()
            found[need.file] = _digest(path, need.part, (state.st_mtime_ns, state.st_size))
    return found


def different(before: object, now: Mapping[str, str]) -> list[str]:
    """The files whose weights differ from the digests stored before. Earlier versions of sdlab stored none."""
    known = before if isinstance(before, dict) else {}
    return [file for file, digest in now.items() if known.get(file, digest) != digest]


@lru_cache(maxsize=64)
def _digest(path: Path, part: str, version: tuple[int, int]) -> str:
    """The digest of the tensors whose names start with `part`, or of all if none does. `version` is of the file."""
    stored, _ = weights_file.read(path)
    hashed = sha256()
    for name in sorted([name for name in stored if name.startswith(part)] or stored):
        tensor = stored[name].read()
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()
