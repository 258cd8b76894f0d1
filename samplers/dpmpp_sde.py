"""DPM++ SDE, the midpoint method with ancestral noise in both stages."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from samplers.ancestral import split
from samplers.base import Denoiser, Noise, Sampler, between
from samplers.checks import one_of, within


@dataclass(frozen=True)
class DPMppSDE(Sampler):
    """DPM++ SDE, the midpoint method with noise in both stages: second order in law, two calls per step.

    With m = √(σ σ⁺), ⁺ for the next level, and for either of them σ_down and σ_up as in Euler ancestral:
        x_m = D(x, σ)   + (m_down/σ)(x − D(x, σ))     + m_up z_m
        x⁺  = D(x_m, m) + (σ_down/σ)(x − D(x_m, m))   + σ_up z

    z_m belongs to the step from σ to m. That is the first part of the step from σ to σ⁺, to which z belongs, so both
    must come from one path. With y the noise from m to σ⁺:
        √(1 − σ⁺²/σ²) z = (σ⁺/m) √(1 − m²/σ²) z_m + √(1 − σ⁺²/m²) y

    `variant` "published" draws z and z_m independently and is of first order (k-diffusion with a plain noise sampler,
    the single-step SDE solver of diffusers). On a Brownian path both variants are the same. `eta` ≥ 0 scales the noise:
    0 is DPM-Solver++(2S). The step to σ⁺ = 0 is an Euler step and makes one call. (Crowson 2022, k-diffusion)

    Raises:
        ValueError: eta is negative or not finite, or variant is not "corrected" or "published".
    """

    eta: float = 1.0
    variant: Literal["corrected", "published"] = "corrected"

    def __post_init__(self) -> None:
        within("DPMppSDE.eta", self.eta, 0)
        one_of("DPMppSDE.variant", self.variant, ("corrected", "published"))

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
        middle = sqrt(sigma) * sqrt(sigma_next)
        q, q_middle = sigma_next / sigma, middle / sigma
        (down, up), (down_middle, up_middle) = split(q, self.eta), split(q_middle, self.eta)

        x_middle = torch.lerp(x0, x, q_middle * down_middle)
        if self.stochastic:
            z_middle = between(noise, sigma, middle, x)
            x_middle.add_(z_middle, alpha=middle * up_middle)
        out = torch.lerp(denoise(x_middle, middle), x, q * down)
        if self.stochastic and self.variant == "published":
            out.add_(between(noise, sigma, sigma_next, x), alpha=sigma_next * up)
        elif self.stochastic:  # σ⁺/m = m/σ = √q, so z = (√q z_m + y)/√(1 + q)
            up /= sqrt(1 + q)
            out.add_(z_middle, alpha=sigma_next * up * sqrt(q))
            out.add_(between(noise, middle, sigma_next, x), alpha=sigma_next * up)
        return out, None
