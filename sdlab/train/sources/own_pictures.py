"""A user's captioned pictures as training data, decoded on demand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdlab.model.config import Size
from sdlab.picture import Fit
from sdlab.train.sources.entry import Entry


@dataclass(frozen=True)
class OwnPictures:
    """Pictures of a data set at one size. With `mirror` there is also the mirror image of each.

    An example is a picture or a mirror image. No example is repeated in a batch before all others were drawn.
    """

    entries: tuple[Entry, ...]
    size: Size
    fit: Fit = "crop"
    mirror: bool = False

    def __len__(self) -> int:
        return len(self.entries) * (1 + self.mirror)

    def batch(self, n: int, generator: torch.Generator) -> OwnBatch:
        """n examples, determined by the generator."""
        rounds = -(-n // len(self))
        order = torch.cat([torch.randperm(len(self), generator=generator) for _ in range(rounds)])
        return OwnBatch(self, order[:n])


@dataclass(frozen=True)
class OwnBatch:
    """Some examples, by index: i is the picture i, and i + N the mirror image of picture i of N."""

    source: OwnPictures
    examples: Tensor  # (B,) int64

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: slice | Tensor) -> OwnBatch:
        return OwnBatch(self.source, self.examples[index])

    def images(self) -> Tensor:
        """The decoded pictures, (B, 3, H, W) in [−1, 1].

        Raises:
            UsageError: a picture was removed or damaged since the data set was checked.
        """
        size, fit = self.source.size, self.source.fit
        pictures = torch.stack([one.picture(size, fit) for one in self._entries()])
        mirrored = (self.examples >= len(self.source.entries)).view(-1, 1, 1, 1)
        return torch.where(mirrored, pictures.flip(3), pictures)

    def captions(self, generator: torch.Generator) -> list[str]:
        """One caption per picture, chosen uniformly from its captions."""
        places = torch.rand(len(self), generator=generator, dtype=torch.float64).tolist()
        return [
            one.captions[int(place * len(one.captions))] for one, place in zip(self._entries(), places, strict=True)
        ]

    def _entries(self) -> list[Entry]:
        return [self.source.entries[i] for i in (self.examples % len(self.source.entries)).tolist()]
