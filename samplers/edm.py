"""Churn: noise added before each deterministic step."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler, between
from samplers.checks import within
from samplers.euler import Euler
from samplers.heun import Heun


@dataclass(frozen=True)
class _Churned(Sampler):
    """The options of churn, and the step of the sampler `inner` from a churned state."""

    inner: ClassVar[Sampler]
    s_churn: float = 5.0
    s_tmin: float = 0.0
    s_tmax: float = inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        within(f"{name}.s_churn", self.s_churn, 0)
        within(f"{name}.s_tmin", self.s_tmin, 0)
        if self.s_tmax != inf:
            within(f"{name}.s_tmax", self.s_tmax, self.s_tmin)
        within(f"{name}.s_noise", self.s_noise, 0)

    @property
    def stochastic(self) -> bool:
        """True unless s_churn is 0."""
        return self.s_churn > 0

    def prepare(self, sigmas: tuple[float, ...]) -> float:
        """γ on this grid, the memory of every step."""
        return min(self.s_churn / max(len(sigmas) - 1, 1), sqrt(2) - 1)

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: float, noise: Noise
    ) -> tuple[Tensor, float]:
        """x at `sigma` -> x at `sigma_next`. Memory: γ."""
        gamma = memory
        if gamma > 0 and self.s_tmin <= sigma <= self.s_tmax:
            up = self.s_noise * sigma * sqrt(gamma * (2 + gamma))
            x = torch.add(x, between(noise, sigma, sigma_next, x), alpha=up)
            sigma += gamma * sigma
        x, _ = self.inner.step(denoise, x, sigma, sigma_next, None, noise)
        return x, memory


@dataclass(frozen=True)
class EDMEuler(_Churned):
    """Euler with churn: first order, one call per step.

    On a grid of N steps, with σ̂ the level a step is churned up to and ⁺ for the next level:
        γ  = min(S_churn/N, √2 − 1)   if S_tmin ≤ σ ≤ S_tmax, else 0
        σ̂  = σ + γ σ
        x̂  = x + S_noise √(σ̂² − σ²) z
        x⁺ = Euler's step from x̂ at σ̂ to σ⁺

    The options are the paper's. s_churn = 0 is Euler. γ is per step, so the same s_churn adds about the same noise on
    every grid. The paper's values, 30 to 80, are for 256 or more steps. s_noise = 1 keeps the law of x at every level.
    The paper uses 1.003 to 1.007 to make up for noise that its networks remove in excess. (Karras et al. 2022,
    arXiv:2206.00364, Algorithm 2)

    Raises:
        ValueError: s_churn or s_noise is below 0, or not 0 ≤ s_tmin ≤ s_tmax.
    """

    inner: ClassVar[Sampler] = Euler()


@dataclass(frozen=True)
class EDMHeun(_Churned):
    """Heun with churn, EDM's stochastic sampler: second order, two calls per step.

    On a grid of N steps, with σ̂ the level a step is churned up to and ⁺ for the next level:
        γ  = min(S_churn/N, √2 − 1)   if S_tmin ≤ σ ≤ S_tmax, else 0
        σ̂  = σ + γ σ
        x̂  = x + S_noise √(σ̂² − σ²) z
        x⁺ = Heun's step from x̂ at σ̂ to σ⁺

    The options are the paper's. s_churn = 0 is Heun. γ is per step, so the same s_churn adds about the same noise on
    every grid. The paper's values, 30 to 80, are for 256 or more steps. s_noise = 1 keeps the law of x at every level.
    The paper uses 1.003 to 1.007 to make up for noise that its networks remove in excess. (Karras et al. 2022,
    arXiv:2206.00364, Algorithm 2)

    Raises:
        ValueError: s_churn or s_noise is below 0, or not 0 ≤ s_tmin ≤ s_tmax.
    """

    order: ClassVar[int] = 2
    inner: ClassVar[Sampler] = Heun()
