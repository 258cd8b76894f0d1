"""Device and dtype selection by name, and errors when a device runs out of memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sdlab.system.errors import RunError


def resolve(name: str) -> str:
    """The device called `name`. `auto` is the best one on this machine.

    Raises:
        ValueError: `name` is not a device, or this machine does not have it.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu" or (name == "mps" and torch.backends.mps.is_available()):
        return name
    if match := re.fullmatch(r"cuda(?::(\d+))?", name):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(match[1] or 0) < count:
            return name
        raise ValueError(f'{name!r} is not on this machine, which has {count} CUDA devices; use "auto"')
    raise ValueError(f'should be "auto", "cpu", "cuda", "cuda:1" or "mps" (on a Mac), got {name!r}')


def resolve_dtype(name: str, device: str) -> str:
    """The dtype called `name`. `auto` is bfloat16 on hardware that multiplies in it, and float32 elsewhere.

    Without such hardware bfloat16 is emulated, which is many times slower than float32. It is not known
    of a GPU on another machine.
    """
    if name != "auto":
        return name
    if device.startswith("cuda"):
        here = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if here else "float32"
    return "bfloat16" if device == "cpu" and torch.cpu._is_avx512_bf16_supported() else "float32"


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Report running out of memory inside the block. `advice` tells the user how to need less.

    Raises:
        RunError: the device or the machine ran out of memory, unless the system kills the process first.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise RunError(f"out of memory; {advice}") from None


def out_of_memory(error: BaseException) -> bool:
    """Whether the error means that the device or the machine ran out of memory."""
    # The text is PyTorch's when host memory runs out.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
