"""PNDM, pseudo numerical methods: PLMS, and PNDM with a Runge–Kutta start.

Both replace ε in the DDIM step with a mean of predicted noises. In the σ clock that is x⁺ = x + (σ⁺ − σ) ε̄.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from samplers.adams import Node, along_noise
from samplers.base import Denoiser, Noise, Sampler
from samplers.clock import DEFAULT, Clock, clock
from samplers.ipndm import EVEN
from samplers.levels import Levels


@dataclass(frozen=True)
class PLMS(Sampler):
    """PLMS, PNDM with Heun's start: second order, one call per step and one more for the first.

    With ε, ε₋₁, ε₋₂, ε₋₃ the last noise predictions and ⁺ for the next level:
        ε̄  = (55 ε − 59 ε₋₁ + 37 ε₋₂ − 9 ε₋₃)/24
        x⁺ = x + (σ⁺ − σ) ε̄

    The first step is a Heun step, the next two use (3 ε − ε₋₁)/2 and (23 ε − 16 ε₋₁ + 5 ε₋₂)/12:
        ε̄  = (ε₁ + ε₂)/2,   ε₁ at (x, σ),   ε₂ at (x + (σ⁺ − σ) ε₁, σ⁺)

    A first step to σ⁺ = 0 is an Euler step. The order is 2 where neighbouring steps have nearly equal lengths in σ, for
    any order in t. (Liu et al. 2022, arXiv:2202.09778, S-PNDM; Rombach et al. 2022, arXiv:2112.10752)
    """

    order: ClassVar[int] = 2

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        memory: tuple[Node, ...] | None,
        noise: Noise,
    ) -> tuple[Tensor, tuple[Node, ...]]:
        """x at `sigma` -> x at `sigma_next`. Memory: the noise predicted at the last levels."""
        x0 = denoise(x, sigma)
        history = _longer(memory, sigma, x - x0)
        if memory is None and sigma_next > 0:
            guess = torch.lerp(x0, x, sigma_next / sigma)
            mean = torch.lerp(history[0].value / sigma, (guess - denoise(guess, sigma_next)) / sigma_next, 0.5)
            return torch.add(x, mean, alpha=sigma_next - sigma), history
        return _multistep(x, x0, history, sigma_next), history


@dataclass(frozen=True)
class PNDM(Sampler):
    """PNDM with a Runge–Kutta start: second order, one call per step and four for each of the first three.

    With ε, ε₋₁, ε₋₂, ε₋₃ the last noise predictions and ⁺ for the next level:
        ε̄  = (55 ε − 59 ε₋₁ + 37 ε₋₂ − 9 ε₋₃)/24
        x⁺ = x + (σ⁺ − σ) ε̄

    The first three steps use Runge–Kutta weights, with σ_m the level halfway through the step in time:
        ε̄  = (ε₁ + 2 ε₂ + 2 ε₃ + ε₄)/6
        ε₁ at (x, σ),                      ε₂ at (x + (σ_m − σ) ε₁, σ_m)
        ε₃ at (x + (σ_m − σ) ε₂, σ_m),     ε₄ at (x + (σ⁺ − σ) ε₃, σ⁺)

    If one of them leads to σ⁺ = 0, it uses the multistep weights instead. The order is 2 where neighbouring steps have
    nearly equal lengths in σ, for any order in t. `levels` is the model's noise schedule, Stable Diffusion v1's by
    default (`with_levels` sets it), and gives the time. (Liu et al. 2022, arXiv:2202.09778)
    """

    order: ClassVar[int] = 2
    levels: Levels = field(default=DEFAULT, repr=False)
    _clock: Clock = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_clock", clock(self.levels))

    def with_levels(self, levels: Levels) -> Sampler:
        """The same sampler in the time of this noise schedule."""
        return replace(self, levels=levels)

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        memory: tuple[Node, ...] | None,
        noise: Noise,
    ) -> tuple[Tensor, tuple[Node, ...]]:
        """x at `sigma` -> x at `sigma_next`. Memory: the noise predicted at the last levels."""
        x0 = denoise(x, sigma)
        history = _longer(memory, sigma, x - x0)
        if len(history) == 4 or sigma_next == 0:
            return _multistep(x, x0, history, sigma_next), history
        middle = self._clock.sigma((self._clock.t(sigma) + self._clock.t(sigma_next)) / 2)
        slope = mean = history[0].value / sigma
        for level, weight in ((middle, 2), (middle, 2), (sigma_next, 1)):
            at = torch.add(x, slope, alpha=level - sigma)
            slope = (at - denoise(at, level)) / level
            mean = torch.add(mean, slope, alpha=weight)
        return torch.add(x, mean, alpha=(sigma_next - sigma) / 6), history


def _longer(memory: tuple[Node, ...] | None, sigma: float, noise: Tensor) -> tuple[Node, ...]:
    return (Node(sigma, noise), *(memory or ()))[:4]


def _multistep(x: Tensor, x0: Tensor, history: tuple[Node, ...], sigma_next: float) -> Tensor:
    step = sigma_next - history[0].sigma
    return along_noise(x, x0, history, [step * weight for weight in EVEN[len(history) - 1]])
