"""Stored tensors: shape, dtype and position in a file are known, and values are read one tensor at a time."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def dense(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides, in elements, of a tensor without gaps: `dense((2, 3, 4)) == (12, 4, 1)`."""
    return tuple(accumulate(reversed(shape[1:]), lambda a, b: a * b, initial=1))[: len(shape)][::-1]


@dataclass(frozen=True)
class StoredTensor:
    """The position of a tensor in a file, with its shape and dtype."""

    path: Path
    offset: int  # bytes from the start of the file to the first element
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # in elements
    dtype: torch.dtype

    @property
    def extent(self) -> int:
        """Bytes from the first element to the end of the last."""
        if not prod(self.shape):
            return 0
        last = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.dtype.itemsize

    def read(self) -> Tensor:
        """The tensor, memory-mapped separately. Its pages are read on use and released with the tensor.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file ends before the end of the tensor.
        """
        if not self.extent:
            return torch.empty(self.shape, dtype=self.dtype)
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        with self.path.open("rb") as file:
            try:
                # Copy on write, because torch needs writable memory and the file must not change.
                size = self.offset + self.extent - start
                data: Any = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY, offset=start)
            except OSError:  # some network file systems cannot map files into memory
                start = self.offset
                file.seek(start)
                data = bytearray(file.read(self.extent))
        count = self.extent // self.dtype.itemsize
        flat = torch.frombuffer(data, dtype=self.dtype, count=count, offset=self.offset - start)
        return flat.as_strided(self.shape, self.stride)

    def with_axes(self, count: int) -> StoredTensor:
        """The same elements with `count` axes: axes of length 1 are added or removed at the end.

        Raises:
            ValueError: an axis to be removed is longer.
        """
        kept, removed = self.shape[:count], self.shape[count:]
        if any(length != 1 for length in removed):
            raise ValueError(f"a tensor of shape {self.shape} cannot have {count} axes")
        more = (1,) * (count - len(kept))
        return replace(self, shape=kept + more, stride=self.stride[:count] + more)


AnyTensor = StoredTensor | Tensor


def fetch(tensor: AnyTensor) -> Tensor:
    """The tensor itself, memory-mapped if it is in a file."""
    return tensor.read() if isinstance(tensor, StoredTensor) else tensor
