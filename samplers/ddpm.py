"""DDPM ancestral sampling."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler, between
from samplers.checks import limit


@dataclass(frozen=True)
class DDPM(Sampler):
    """Ancestral sampling from the DDPM posterior: first order, one call per step.

    In the paper's terms, with the posterior variance β̃:
        x_{t−1} ~ N(μ̃, β̃ I),   β̃ = (1 − ᾱ_{t−1})/(1 − ᾱ_t) β_t
        μ̃ = √ᾱ_{t−1} β_t/(1 − ᾱ_t) x̂₀ + √α_t (1 − ᾱ_{t−1})/(1 − ᾱ_t) x_t

    In the σ clock (each x divided by its √ᾱ, ᾱ = 1/(1 + σ²), ⁺ for t−1):
        x⁺ = x̂₀ + (σ⁺²/σ²)(x − x̂₀) + √v z,   v = σ⁺² (σ² − σ⁺²)/σ²

    The grid may therefore use any levels, not only those of the training table. The step to σ⁺ = 0 returns the mean.
    `clip` clamps x̂₀ to [−clip, clip], for models of pixels. The authors' code and diffusers (`clip_sample`) clamp to
    [−1, 1]. With `clip` no order is claimed: a denoiser that leaves the range converges to another law.
    (Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 6-7 and Algorithm 2)

    Raises:
        ValueError: clip is not above 0.
    """

    stochastic: ClassVar[bool] = True
    clip: float = inf

    def __post_init__(self) -> None:
        limit("DDPM.clip", self.clip)

    @property
    def order(self) -> int:
        """1; 0, no claim, with `clip`."""
        return 1 if self.clip == inf else 0

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> a draw from the posterior at `sigma_next`, its mean if that is 0. No memory."""
        x0 = denoise(x, sigma).clamp(-self.clip, self.clip)
        if sigma_next == 0:
            return x0, None
        q = sigma_next / sigma
        mean = torch.lerp(x0, x, q * q)
        fresh = between(noise, sigma, sigma_next, x)
        return mean.add_(fresh, alpha=sigma_next * sqrt((1 - q) * (1 + q))), None
