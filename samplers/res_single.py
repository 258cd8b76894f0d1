"""RES single-step, exponential Runge–Kutta methods on x̂₀ with free inner levels."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import ClassVar

import torch
from torch import Tensor

from samplers.adams import log_ratio, phi
from samplers.base import Denoiser, Noise, Sampler
from samplers.checks import within


@dataclass(frozen=True)
class RES2S(Sampler):
    """RES-2S: second order, two calls per step.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level, φ₁(z) = (e^z − 1)/z, φ₂(z) = (φ₁(z) − 1)/z, D₁ = D(x, σ) and
    σ₂ = σ e^{−c₂h}:
        x₂ = (σ₂/σ) x + c₂ h φ₁(−c₂h) D₁
        x⁺ = (σ⁺/σ) x + h [φ₁(−h) D₁ + φ₂(−h)/c₂ (D(x₂, σ₂) − D₁)]

    `c2` in (0, 1] is the place of the inner level in λ. With 1 it is the Heun method `exponential_heun`. With 1/2 it
    differs from `dpmpp_2s`, which has φ₁ in place of φ₂/c₂. The step to σ⁺ = 0 is an Euler step and makes one call.
    (Hochbruck and Ostermann 2005, doi:10.1137/040611434, section 5; Zhang et al. 2023, arXiv:2308.02157)

    Raises:
        ValueError: c2 is not in (0, 1].
    """

    order: ClassVar[int] = 2
    c2: float = 0.5

    def __post_init__(self) -> None:
        _check_place("RES2S.c2", self.c2)

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        return self.after(denoise(x, sigma), denoise, x, sigma, sigma_next), None

    def after(self, x0: Tensor, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """The same step when D(x, σ) is known: x at `sigma_next`."""
        euler = torch.lerp(x0, x, sigma_next / sigma)
        if sigma_next == 0:
            return euler
        h = log_ratio(sigma, sigma_next)
        inner = _level(sigma, sigma_next, self.c2)
        change = denoise(torch.lerp(x0, x, inner / sigma), inner) - x0
        return euler.add_(change, alpha=h * phi(2, -h)[1] / self.c2)


@dataclass(frozen=True)
class RES3S(Sampler):
    """RES-3S: third order, three calls per step.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level, φ₁(z) = (e^z − 1)/z, φ₂(z) = (φ₁(z) − 1)/z, D₁ = D(x, σ),
    D_i = D(x_i, σ_i), σ_i = σ e^{−c_i h} and γ = c₃ (3c₃ − 2)/(c₂ (2 − 3c₂)):
        x₂ = (σ₂/σ) x + c₂ h φ₁(−c₂h) D₁
        x₃ = (σ₃/σ) x + c₃ h φ₁(−c₃h) D₁ + h [γ c₂ φ₂(−c₂h) + (c₃²/c₂) φ₂(−c₃h)] (D₂ − D₁)
        x⁺ = (σ⁺/σ) x + h φ₁(−h) D₁ + h φ₂(−h)/(γ c₂ + c₃) [γ (D₂ − D₁) + D₃ − D₁]

    `c2` and `c3` in (0, 1] are the places of the inner levels in λ. c₂ = 2/3 and c₂ = c₃ have no such method. The step
    to σ⁺ = 0 is an Euler step and makes one call. (Hochbruck and Ostermann 2005, doi:10.1137/040611434, section
    5; Zhang et al. 2023, arXiv:2308.02157)

    Raises:
        ValueError: c2 or c3 is not in (0, 1], c2 is 2/3, or they are equal.
    """

    order: ClassVar[int] = 3
    c2: float = 0.5
    c3: float = 1.0

    def __post_init__(self) -> None:
        _check_place("RES3S.c2", self.c2)
        _check_place("RES3S.c3", self.c3)
        if abs(self.c2 - 2 / 3) < 1e-3:
            raise ValueError(f"RES3S.c2 must differ from 2/3 by 0.001 or more, got {self.c2!r}")
        if abs(self.c2 - self.c3) < 1e-3:
            raise ValueError(f"RES3S.c2 and c3 must differ by 0.001 or more, got {self.c2!r} and {self.c3!r}")

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        return self.after(denoise(x, sigma), denoise, x, sigma, sigma_next), None

    def after(self, x0: Tensor, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """The same step when D(x, σ) is known: x at `sigma_next`."""
        euler = torch.lerp(x0, x, sigma_next / sigma)
        if sigma_next == 0:
            return euler
        h, c2, c3 = log_ratio(sigma, sigma_next), self.c2, self.c3
        gamma = c3 * (3 * c3 - 2) / (c2 * (2 - 3 * c2))
        second, third = _level(sigma, sigma_next, c2), _level(sigma, sigma_next, c3)
        d_2 = denoise(torch.lerp(x0, x, second / sigma), second) - x0
        a = gamma * c2 * phi(2, -c2 * h)[1] + c3 * c3 / c2 * phi(2, -c3 * h)[1]
        d_3 = denoise(torch.lerp(x0, x, third / sigma).add_(d_2, alpha=h * a), third) - x0
        weight = h * phi(2, -h)[1] / (gamma * c2 + c3)
        return euler.add_(d_2, alpha=weight * gamma).add_(d_3, alpha=weight)


def _check_place(name: str, value: float) -> None:
    within(name, value, 1e-3, 1)


def _level(sigma: float, sigma_next: float, place: float) -> float:
    """The level at this share of the step in λ."""
    return sigma_next if place == 1 else sigma * exp(-place * log_ratio(sigma, sigma_next))
