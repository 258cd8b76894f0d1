"""Token perturbation guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sdlab.guidance.base import Query
from sdlab.guidance.contrast import Contrast
from sdlab.model.perturbation import Point, RandomPerturbation
from sdlab.model.place import Place


@dataclass(frozen=True)
class ShuffledTokens(RandomPerturbation):
    """Tokens shuffled before a transformer block, and not put back. Each transformer has its own permutation."""

    point: ClassVar[Point] = "tokens"

    def change(self, state: Tensor, other: Tensor, place: Place) -> Tensor:
        """The shuffled tokens."""
        return state[:, torch.randperm(state.shape[1], generator=self.generator(place)).to(state.device)]


@dataclass(frozen=True)
class TokenPerturbation(Contrast):
    """Token perturbation guidance: away from the prediction with shuffled tokens, D(c) + scale (D(c) − D′(c)).

    The tokens are shuffled before each of the transformers `layers`, differently for every image and noise level. `cfg`
    adds classifier-free guidance, and 1 is without. (Rajabi et al. 2025, arXiv:2506.10036, sec. 4)

    Raises:
        ValueError: `scale` or `cfg` is below 0, or `layers` is empty.
    """

    layers: tuple[str, ...] = ("down",)

    def worse(self, sigma: float) -> Query:
        """The conditional prediction with shuffled tokens."""
        return Query("cond", ShuffledTokens(self.layers, float(sigma).hex()))
