"""DPM++ SDE, a two-stage method with ancestral noise in both stages."""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, sqrt
from typing import Literal

import torch
from torch import Tensor

from samplers.adams import log_ratio
from samplers.ancestral import split
from samplers.base import Denoiser, Noise, Sampler, between
from samplers.checks import one_of, within


@dataclass(frozen=True)
class DPMppSDE(Sampler):
    """DPM++ SDE, a midpoint method with noise in both stages: second order in law, two calls per step.

    With m the level at r₁ of the step in log σ, ⁺ for the next level, and for either of them σ_down and σ_up as in
    Euler ancestral:
        x_m = D(x, σ) + (m_down/σ)(x − D(x, σ)) + m_up z_m
        D̄   = D(x, σ) + (D(x_m, m) − D(x, σ))/(2 r₁)
        x⁺  = D̄ + (σ_down/σ)(x − D̄) + σ_up z

    z_m belongs to the step from σ to m. That is the first part of the step from σ to σ⁺, to which z belongs, so both
    must come from one path. With y the noise from m to σ⁺:
        √(1 − σ⁺²/σ²) z = (σ⁺/m) √(1 − m²/σ²) z_m + √(1 − σ⁺²/m²) y

    `variant` "published" draws z and z_m independently and is of first order (k-diffusion with a plain noise sampler,
    the single-step SDE solver of diffusers). On a Brownian path both variants are the same. `eta` ≥ 0 scales the noise:
    0 is DPM-Solver++(2S). `r1` is the position of the second call within the step, in log σ. The step to σ⁺ = 0 is an
    Euler step and makes one call. (Crowson 2022, k-diffusion)

    Raises:
        ValueError: eta is negative or not finite, r1 is not in [0.01, 0.99], or variant is not "corrected" or
            "published".
    """

    eta: float = 1.0
    variant: Literal["corrected", "published"] = "corrected"
    r1: float = 0.5

    def __post_init__(self) -> None:
        within("DPMppSDE.eta", self.eta, 0)
        one_of("DPMppSDE.variant", self.variant, ("corrected", "published"))
        within("DPMppSDE.r1", self.r1, 0.01, 0.99)

    @property
    def order(self) -> int:
        """2; 1 for the published variant, unless eta is 0."""
        return 2 if self.variant == "corrected" or self.eta == 0 else 1

    @property
    def stochastic(self) -> bool:
        """True unless eta is 0."""
        return self.eta > 0

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            return torch.lerp(x0, x, 0.0), None
        q, h = sigma_next / sigma, log_ratio(sigma, sigma_next)
        # As in seeds_2, to the bit: a Brownian path is rough, so a rounded level would have visibly other noise.
        middle = sqrt(sigma) * sqrt(sigma_next) if self.r1 == 0.5 else sigma * q**self.r1
        q_middle = middle / sigma
        (down, up), (down_middle, up_middle) = split(q, self.eta), split(q_middle, self.eta)

        x_middle = torch.lerp(x0, x, q_middle * down_middle)
        if self.stochastic:
            z_middle = between(noise, sigma, middle, x)
            x_middle.add_(z_middle, alpha=middle * up_middle)
        d = denoise(x_middle, middle)
        if self.r1 != 0.5:
            d = torch.lerp(x0, d, 1 / (2 * self.r1))
        out = torch.lerp(d, x, q * down)
        if self.stochastic and self.variant == "published":
            out.add_(between(noise, sigma, sigma_next, x), alpha=sigma_next * up)
        elif self.stochastic:
            first, rest = (sqrt(expm1(-2 * part * h) / expm1(-2 * h)) for part in (self.r1, 1 - self.r1))
            out.add_(z_middle, alpha=sigma_next * up * sigma_next / middle * first)
            out.add_(between(noise, middle, sigma_next, x), alpha=sigma_next * up * rest)
        return out, None
