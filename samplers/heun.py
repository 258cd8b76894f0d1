"""Heun's method, the trapezoidal rule on the probability-flow ODE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler


@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's method on the probability-flow ODE: second order, two calls per step.

    With ⁺ for the next level, and x_e Euler's step:
        d   = (x − D(x, σ))/σ
        x_e = x + (σ⁺ − σ) d
        d⁺  = (x_e − D(x_e, σ⁺))/σ⁺
        x⁺  = x + (σ⁺ − σ)(d + d⁺)/2

    The step to σ⁺ = 0 is an Euler step and makes one call. (Karras et al. 2022, arXiv:2206.00364, Algorithm 1)
    """

    order: ClassVar[int] = 2

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        x0 = denoise(x, sigma)
        euler = torch.lerp(x0, x, sigma_next / sigma)  # x + (σ⁺ − σ) d, and exactly x̂₀ at σ⁺ = 0
        if sigma_next == 0:
            return euler, None
        half = (sigma_next - sigma) / 2
        d = x - x0  # the 1/σ is folded into the factors below
        d_next = euler - denoise(euler, sigma_next)  # times 1/σ⁺
        return torch.add(x, d, alpha=half / sigma).add_(d_next, alpha=half / sigma_next), None
