"""DPM2, the midpoint method at the geometric middle of a step."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler


@dataclass(frozen=True)
class DPM2(Sampler):
    """DPM2, the midpoint method in log σ: second order, two calls per step.

    With m = √(σ σ⁺) and ⁺ for the next level:
        d   = (x − D(x, σ))/σ
        x_m = x + (m − σ) d
        d_m = (x_m − D(x_m, m))/m
        x⁺  = x + (σ⁺ − σ) d_m

    In the σ clock this is DPM-Solver-2 with r = ½. The step to σ⁺ = 0 is an Euler step and makes one call. (Crowson
    2022, k-diffusion; Lu et al. 2022, arXiv:2206.00927, Algorithm 1)
    """

    order: ClassVar[int] = 2

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            return torch.lerp(x0, x, 0.0), None
        middle = sqrt(sigma) * sqrt(sigma_next)
        x_middle = torch.lerp(x0, x, middle / sigma)
        slope = x_middle - denoise(x_middle, middle)  # m d_m
        return torch.add(x, slope, alpha=(sigma_next - sigma) / middle), None
