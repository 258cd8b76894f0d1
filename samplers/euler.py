"""Euler's method on the probability-flow ODE, and its ancestral form.

Euler (Karras et al. 2022, arXiv:2206.00364, Algorithm 1 without the correction), with ⁺ for the next level:
    d  = (x − x̂₀)/σ
    x⁺ = x + (σ⁺ − σ) d  =  x̂₀ + (σ⁺/σ)(x − x̂₀)

Ancestral (Crowson, k-diffusion, 2022): an Euler step to a level below σ⁺, and fresh noise back up to it
    σ_up²   = min(σ⁺², η² σ⁺² (σ² − σ⁺²)/σ²)
    σ_down² = σ⁺² − σ_up²
    x⁺      = x̂₀ + (σ_down/σ)(x − x̂₀) + σ_up z
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise
from samplers.checks import within


@dataclass(frozen=True)
class Euler:
    """Euler on the probability-flow ODE: first order, one call a step."""

    order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`; remembers nothing."""
        return torch.lerp(denoise(x, sigma), x, sigma_next / sigma), None

    def nfe(self, sigmas: Sequence[float]) -> int:
        """One call a step."""
        return len(sigmas) - 1


@dataclass(frozen=True)
class EulerAncestral:
    """Euler to below the next level, then fresh noise up to it: first order, one call a step.

    `eta` ≥ 0 scales the noise: 0 is Euler, 1 the DDPM posterior; where more would exceed the next level's own noise,
    all of that is drawn afresh. ValueError for another eta.
    """

    order: ClassVar[int] = 1
    eta: float = 1.0

    def __post_init__(self) -> None:
        within("EulerAncestral.eta", self.eta, 0)

    @property
    def stochastic(self) -> bool:
        """True unless eta is 0."""
        return self.eta > 0

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`; remembers nothing."""
        q = sigma_next / sigma
        up = min(1.0, self.eta * sqrt((1 - q) * (1 + q)))  # σ_up and σ_down as shares of σ⁺
        down = sqrt((1 - up) * (1 + up))
        x_down = torch.lerp(denoise(x, sigma), x, q * down)
        return (x_down.add_(noise(x), alpha=sigma_next * up) if sigma_next * up > 0 else x_down), None

    def nfe(self, sigmas: Sequence[float]) -> int:
        """One call a step."""
        return len(sigmas) - 1
