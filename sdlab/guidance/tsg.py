"""Time-step guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from samplers.checks import within
from sdlab.guidance.base import Query
from sdlab.guidance.contrast import Contrast
from sdlab.guidance.schedule import time_of
from sdlab.model.perturbation import Point, RandomPerturbation
from sdlab.model.place import Place


@dataclass(frozen=True)
class NoisyTime(RandomPerturbation):
    """A timestep embedding with Gaussian noise, whose standard deviation is `size` times its root mean square."""

    point: ClassVar[Point] = "time"
    size: float = 1.0

    def change(self, state: Tensor, other: Tensor, place: Place) -> Tensor:
        """The embedding with noise."""
        white = torch.randn(state.shape[1:], generator=self.generator(place)).to(state)
        return state + self.size * state.square().mean(1, keepdim=True).sqrt() * white


@dataclass(frozen=True)
class TimeStep(Contrast):
    """Time-step guidance: away from the prediction with noise on its timestep embedding, D(c) + scale (D(c) − D′(c)).

    The noise has the standard deviation noise · t^power, with t = (2/π) arctan σ, in units of the root mean square of
    the embedding, so that it means the same for every network. It follows from the seed of the image and the level.
    The paper's w is scale + 1. `cfg` adds classifier-free guidance, and 1 is without. Scale 0 has no effect.
    (Sadat et al. 2024, arXiv:2407.02687, sec. 5)

    Raises:
        ValueError: `scale`, `cfg`, `noise` or `power` is below 0.
    """

    noise: float = 1.0
    power: float = 1.0

    def __post_init__(self) -> None:
        within("TimeStep.noise", self.noise, 0)
        within("TimeStep.power", self.power, 0)
        super().__post_init__()

    def worse(self, sigma: float) -> Query:
        """The conditional prediction with a noisy timestep embedding."""
        size = self.noise * time_of(sigma) ** self.power
        return Query("cond", NoisyTime(key=float(sigma).hex(), size=size))
