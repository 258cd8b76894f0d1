"""Training data: captioned pictures from any source.

A source draws batches. A batch renders or reads its pictures and generates its captions on demand, so thousands of
pictures can be encoded in pieces, and each use of a picture can have another caption.
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor


class Batch(Protocol):
    """Captioned pictures of one source."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | Tensor) -> Self:
        """Part of the batch; a tensor holds indices."""
        ...

    def images(self) -> Tensor:
        """The pictures, (B, 3, H, W) float32 in [−1, 1], on the CPU."""
        ...

    def captions(self, generator: torch.Generator) -> list[str]:
        """One caption per picture; the generator chooses among several."""
        ...


class CaptionedPictures(Protocol):
    """A source of captioned pictures."""

    def batch(self, n: int, generator: torch.Generator) -> Batch:
        """n pictures, determined by the generator."""
        ...
