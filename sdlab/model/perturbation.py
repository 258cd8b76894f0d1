"""Perturbations of the U-Net's pass, per image, at named points of named transformers.

They are an argument of the U-Net's call. The U-Net has the point

    time              the embedding (B, 4 · width) of the timestep, before the SiLU of the residual blocks

and a transformer has the points

    tokens            the tokens (B, T, C) that enter its block
    query             the queries (B, T, C) of self-attention
    self_attention    the output (B, T, C) of self-attention, before its last linear layer
    cross_attention   the output (B, T, C) of cross-attention, before its last linear layer
    update            what the transformer adds to its feature map, (B, C, H, W)

The transformers are named in the order of the pass: d0, d1, … on the way down, m0 in the middle, and u0, u1, … on the
way up, as in the code of PAG (Ahn et al. 2024, arXiv:2403.17377). `UnetConfig.layers` has names for several.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal
from zlib import crc32

import torch
from torch import Tensor

from sdlab.model.attention_maps import AttentionMaps
from sdlab.model.config import Size
from sdlab.model.place import Place

Point = Literal["time", "tokens", "query", "self_attention", "cross_attention", "update"]


@dataclass(frozen=True)
class Perturbation(ABC):
    """A change at one point of some transformers. Equal perturbations of a batch are applied together.

    At the point `time`, `layers` have no meaning.

    Raises:
        ValueError: `layers` is empty.
    """

    point: ClassVar[Point]
    layers: tuple[str, ...] = ("auto",)  # names of `UnetConfig.layers`

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError('layers must name at least one transformer, or "auto", "down", "middle", "up" or "all"')

    @abstractmethod
    def change(self, state: Tensor, other: Tensor, place: Place) -> Tensor:
        """The new state at the point, in the shape of `state`. The result for an image depends only on its rows.

        `other` has the values of self-attention at `self_attention`, the output of the same attention to the negative
        context at `cross_attention`, and `state` elsewhere.
        """


@dataclass(frozen=True)
class RandomPerturbation(Perturbation):
    """A perturbation with randomness, which follows from `seed`, `key` and the transformer.

    `Guided` replaces the seed by that of each image. A `key` that depends on the level gives each level its own draw.
    """

    key: str = ""
    seed: int = 0

    def generator(self, place: Place) -> torch.Generator:
        """A generator on the CPU, the same whenever this perturbation acts at this place."""
        return torch.Generator().manual_seed(crc32(f"{self.seed} {self.key} {place.transformer}".encode()))


@dataclass(frozen=True)
class Perturbed:
    """What is special about a pass: the perturbations of a batch, each with its rows, and the maps to record."""

    rows: tuple[tuple[Perturbation, Tensor], ...] = ()
    negative: Tensor | None = None  # contexts (B, L, width) that perturbations of cross-attention contrast with
    maps: AttentionMaps | None = None
    place: Place = field(default_factory=Place)

    @classmethod
    def of(
        cls,
        perturbation: Sequence[Perturbation | None],
        negative: Tensor | None,
        maps: AttentionMaps | None,
        device: torch.device,
    ) -> Perturbed:
        """The perturbation of each row, or None."""
        found: dict[Perturbation, list[int]] = {}
        for i, one in enumerate(perturbation):
            if one is not None:
                found.setdefault(one, []).append(i)
        return cls(tuple((one, torch.tensor(rows, device=device)) for one, rows in found.items()), negative, maps)

    def inside(self, names: Sequence[str], size: Size) -> Perturbed:
        """Those that act in the transformer with these names, whose feature map has this height and width."""
        if not self.rows and self.maps is None:
            return self
        rows = tuple((one, rows) for one, rows in self.rows if not set(names).isdisjoint(one.layers))
        return Perturbed(rows, self.negative, self.maps, Place(names[0], size, tuple(names)))

    def at(self, point: Point, state: Tensor, other: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The state (B, …) at a point after the perturbations there. `other` takes the indices of rows."""
        acting = [(one, rows) for one, rows in self.rows if one.point == point]
        if not acting:
            return state
        changed = []
        for one, rows in acting:
            part = state[rows]
            changed.append(one.change(part, part if other is None else other(rows), self.place).to(state.dtype))
        return state.index_copy(0, torch.cat([rows for _, rows in acting]), torch.cat(changed))

    def record(self, query: Tensor, key: Tensor, heads: int) -> None:
        """Record the self-attention of this transformer, if it is wanted."""
        if self.maps is not None:
            self.maps.record(self.place, query, key, heads)


UNPERTURBED = Perturbed()
