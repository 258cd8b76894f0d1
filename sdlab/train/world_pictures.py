"""A world as training data: fresh pictures for every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from sdlab.worlds.base import Split, Truth
from sdlab.worlds.registry import AnyWorld

T = TypeVar("T", bound=Truth)


@dataclass(frozen=True)
class _OfWorld:
    """Something of a world, which is a module and is therefore pickled by its name."""

    world: AnyWorld

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "world": vars(self.world)["__name__"]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, world=import_module(state["world"]))


@dataclass(frozen=True)
class WorldBatch(_OfWorld, Generic[T]):
    """Ground truth of a world with its pictures and captions."""

    truth: T
    complete: float

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, index: slice | Tensor) -> WorldBatch[T]:
        return WorldBatch(self.world, self.truth[index], self.complete)

    def images(self) -> Tensor:
        """The rendered pictures, (B, 3, H, W) in [−1, 1]."""
        return self.world.render(self.truth)

    def captions(self, generator: torch.Generator) -> list[str]:
        """Captions with varied wording of the `statements`."""
        return self.words(self.statements(generator), generator)

    def words(self, statements: Sequence[Any], generator: torch.Generator) -> list[str]:
        """Captions of statements, one for each picture, with varied wording."""
        choices = torch.randint(1 << 30, (len(self), self.world.CHOICES), generator=generator)
        return [self.world.word(s, choose) for s, choose in zip(statements, choices, strict=True)]

    def statements(self, generator: torch.Generator) -> list[Any]:
        """What the captions state. The share `complete` of them states every fact; the others may omit some."""
        if self.complete in (0, 1):
            return self.world.state(self.truth, generator, bool(self.complete))
        whole = torch.rand(len(self), generator=generator) < self.complete
        short, long = (self.world.state(self.truth, generator, complete) for complete in (False, True))
        return [b if chosen else a for a, b, chosen in zip(short, long, whole.tolist(), strict=True)]


@dataclass(frozen=True)
class WorldPictures(_OfWorld, Generic[T]):
    """Fresh pictures of one split of a world.

    Stages that need the ground truth use this type instead of `CaptionedPictures`.
    """

    split: Split
    complete: float = 0.0  # the share of captions that state every fact

    def batch(self, n: int, generator: torch.Generator) -> WorldBatch[T]:
        """n pictures of the split, determined by the generator."""
        return WorldBatch(self.world, self.world.sample(n, generator, self.split), self.complete)
