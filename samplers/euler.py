"""Euler's method on the probability-flow ODE."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler


@dataclass(frozen=True)
class Euler(Sampler):
    """Euler's method on the probability-flow ODE: first order, one call per step.

    With ⁺ for the next level:
        d  = (x − D(x, σ))/σ
        x⁺ = x + (σ⁺ − σ) d  =  D(x, σ) + (σ⁺/σ)(x − D(x, σ))

    (Karras et al. 2022, arXiv:2206.00364, Algorithm 1 without the correction)
    """

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        return torch.lerp(denoise(x, sigma), x, sigma_next / sigma), None
