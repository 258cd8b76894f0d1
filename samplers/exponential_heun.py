"""Heun's method in exponential form, on x̂₀."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler
from samplers.res_single import RES2S

_RES = RES2S(c2=1.0)


@dataclass(frozen=True)
class ExponentialHeun(Sampler):
    """Heun's method in exponential form: second order, two calls per step.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level, φ₁ = (1 − e^{−h})/h and φ₂ = (1 − φ₁)/h:
        x_e = (σ⁺/σ) x + h φ₁ D(x, σ)
        x⁺  = (σ⁺/σ) x + h [(φ₁ − φ₂) D(x, σ) + φ₂ D(x_e, σ⁺)]

    x̂₀ is interpolated linearly in λ between the two and integrated exactly. The step to σ⁺ = 0 is an Euler step and
    makes one call. (Hochbruck and Ostermann 2005, doi:10.1137/040611434; Zhang et al. 2023, arXiv:2308.02157, RES with
    c₂ = 1)
    """

    order: ClassVar[int] = 2

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        return _RES.step(denoise, x, sigma, sigma_next, memory, noise)
