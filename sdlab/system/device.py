"""The device a user names, checked against this machine."""

from __future__ import annotations

import re

import torch


def resolve(name: str) -> str:
    """`auto` resolved to the best device here, any other name as it is.

    Raises:
        ValueError: no such device, or not on this machine; the message says what would be right.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu" or (name == "mps" and torch.backends.mps.is_available()):
        return name
    if match := re.fullmatch(r"cuda(?::(\d+))?", name):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(match[1] or 0) < count:
            return name
        raise ValueError(f"{name!r} is not on this machine, which has {count} CUDA devices; right would be: auto")
    raise ValueError(f'should be "auto", "cpu", "cuda", "cuda:1" or "mps" (where there is one), got {name!r}')
