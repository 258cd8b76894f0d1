"""Stored tensors: shape, dtype and position in a file are known, and values are read one tensor at a time."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path

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
            # Copy on write, because torch needs writable memory and the file must not change.
            view = mmap.mmap(file.fileno(), self.offset + self.extent - start, access=mmap.ACCESS_COPY, offset=start)
        count = self.extent // self.dtype.itemsize
        flat = torch.frombuffer(view, dtype=self.dtype, count=count, offset=self.offset - start)
        return flat.as_strided(self.shape, self.stride)

    def reshaped(self, shape: tuple[int, ...]) -> StoredTensor:
        """The same elements in another shape. The tensor must have no gaps.

        Raises:
            ValueError: the tensor has gaps, or the shape has another number of elements.
        """
        if self.stride != dense(self.shape) or prod(shape) != prod(self.shape):
            raise ValueError(f"cannot reshape {self.shape} with strides {self.stride} to {shape}")
        return StoredTensor(self.path, self.offset, shape, dense(shape), self.dtype)


AnyTensor = StoredTensor | Tensor


def fetch(tensor: AnyTensor) -> Tensor:
    """The tensor itself, memory-mapped if it is in a file."""
    return tensor.read() if isinstance(tensor, StoredTensor) else tensor
