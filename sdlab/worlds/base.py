"""The interface of worlds.

A world is a package whose module has these names. It samples ground truth, renders it, writes captions, and decides
which statements of a caption are true of a picture. Training, prompt sets and metrics use worlds through it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeVar

if TYPE_CHECKING:  # the names of worlds are known without torch
    import torch
    from torch import Tensor

Split = Literal["train", "heldout", "all"]
"""Pictures without a held-out combination, with one each, or without this restriction."""


class Truth(Protocol):
    """A batch of ground truth: all that the pictures show."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | Tensor) -> Self:
        """Part of the batch; a tensor holds indices."""
        ...


@dataclass(frozen=True)
class Heads:
    """What a reader of the world predicts: the number of outputs by name, such as one per class."""

    picture: Mapping[str, int]  # for the whole picture
    cells: Mapping[str, int] = field(default_factory=dict)  # for each cell of a map with a cell per 4 × 4 pixels


T = TypeVar("T", bound=Truth)
S = TypeVar("S")
R = TypeVar("R")


class World(Protocol[T, S, R]):
    """A world with ground truth T, statements S and readings R.

    A statement is what a caption says, a reading what a reader saw in one picture.
    """

    SIZE: tuple[int, int]
    """(height, width) of the pictures."""
    EXAMPLE: str
    """A caption, for messages."""
    CHOICES: int
    """How many random integers `word` takes."""
    HEADS: Heads
    MARKS: int
    """How many marks `marks` returns."""

    def sample(self, n: int, generator: torch.Generator, split: Split = "train") -> T:
        """Ground truth of n pictures, determined by the generator."""
        ...

    def render(self, truth: T, /) -> Tensor:
        """The pictures, (B, 3, H, W) float32 in [−1, 1]."""
        ...

    def state(self, truth: T, /, generator: torch.Generator, complete: bool = False) -> list[S]:
        """What one caption per picture states: a random part of its facts, or with `complete` all of them."""
        ...

    def word(self, statement: S, choose: Tensor) -> str:
        """The statement as a caption. The `CHOICES` random integers in `choose` select the wording."""
        ...

    def describe(self, truth: T, /, generator: torch.Generator, complete: bool = False) -> list[str]:
        """One caption per picture: `state` and then `word`."""
        ...

    def parse(self, caption: str) -> S | None:
        """What the caption states, or None if it states nothing about this world."""
        ...

    def facts(self, statement: S) -> list[str]:
        """The stated facts in words, one entry per fact."""
        ...

    def alter(self, statement: S, choose: Tensor) -> S:
        """A statement that differs in one fact. The two random integers in `choose` select it."""
        ...

    def trained(self, statement: S) -> bool:
        """Whether no combination is stated that is held out of training."""
        ...

    def marks(self, truth: T, /) -> Tensor:
        """What the pictures show, (B, MARKS) of 0 and 1, for encoders that learn to predict it."""
        ...

    def stated(self, statements: Sequence[S]) -> Tensor:
        """Which marks the statements cover, whether or not they say where, (B, MARKS) bool."""
        ...

    def losses(self, outputs: Mapping[str, Tensor], truth: T, /) -> dict[str, Tensor]:
        """The losses of a reader's outputs, one for each of `HEADS`, that it minimises in sum."""
        ...

    def readings(self, outputs: Mapping[str, Tensor]) -> list[R]:
        """What a reader saw in each picture, from its outputs."""
        ...

    def check(self, statement: S, reading: R) -> list[bool]:
        """Whether each stated fact is true of the picture, in the order of `facts`."""
        ...


def accuracy(world: World[T, S, R], statements: Sequence[S], readings: Sequence[R]) -> list[float]:
    """The share of each statement's facts that are true of its picture."""
    checked = (world.check(s, r) for s, r in zip(statements, readings, strict=True))
    return [sum(facts) / len(facts) for facts in checked]
