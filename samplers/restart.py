"""Restart: Heun's method with rounds that add noise and denoise again."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler
from samplers.checks import positive, whole
from samplers.heun import Heun

RHO = 7  # the paper's inner grid: even in σ^{1/7}


@dataclass(frozen=True)
class Restart(Sampler):
    """Heun with restarts between two levels: second order in law, two calls per step plus the rounds.

    With s the first level at or below `low`, `repeats` times:
        x at s  ->  x + √(high² − s²) z at high  ->  Heun's method on a grid from high to s

    Adding noise is exact in law, and each round contracts the errors made above s. A round uses the levels of the grid
    between `high` and s. With `inner_steps` it takes that many steps even in σ^{1/7} as in the paper, whatever the
    number of outer steps. There is no restart unless the grid has a positive level at or below `low` and another above
    it. (Xu et al. 2023, arXiv:2306.14878)

    Raises:
        ValueError: not 0 < low < high, repeats is below 0, or inner_steps is below 1.
    """

    order: ClassVar[int] = 2
    low: float = 0.1
    high: float = 2.0
    repeats: int = 1
    inner_steps: int | None = None

    def __post_init__(self) -> None:
        positive("Restart.low", self.low)
        positive("Restart.high", self.high)
        if not self.low < self.high:
            raise ValueError(f"Restart.high must be above low = {self.low!r}, got {self.high!r}")
        whole("Restart.repeats", self.repeats, 0)
        if self.inner_steps is not None:
            whole("Restart.inner_steps", self.inner_steps, 1)

    @property
    def stochastic(self) -> bool:
        """True unless there are no repeats."""
        return self.repeats > 0

    def prepare(self, sigmas: tuple[float, ...]) -> tuple[float, ...]:
        """The levels of a round, from high to s; empty if there is no restart. The memory of every step."""
        s = next((b for a, b in pairwise(sigmas) if a > self.low >= b), 0.0)
        if s == 0:
            return ()
        if self.inner_steps is None:
            return (self.high, *(sigma for sigma in sigmas if self.high > sigma > s), s)
        top, bottom, n = self.high ** (1 / RHO), s ** (1 / RHO), self.inner_steps
        return (self.high, *((top + i / n * (bottom - top)) ** RHO for i in range(1, n)), s)

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        memory: tuple[float, ...],
        noise: Noise,
    ) -> tuple[Tensor, tuple[float, ...]]:
        """x at `sigma` -> x at `sigma_next`, after the rounds if it is s. Memory: the levels of a round."""
        x, _ = Heun().step(denoise, x, sigma, sigma_next, None, noise)
        if memory and sigma_next == memory[-1]:
            up = sqrt((self.high - sigma_next) * (self.high + sigma_next))
            for _ in range(self.repeats):
                x = torch.add(x, noise(x), alpha=up)
                for high, low in pairwise(memory):
                    x, _ = Heun().step(denoise, x, high, low, None, noise)
        return x, memory
