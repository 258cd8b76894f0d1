"""RES multistep, the exponential Adams–Bashforth method of second order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from samplers.adams import Node, adams_weights, log_ratio
from samplers.base import Denoiser, Noise, Sampler


@dataclass(frozen=True)
class RESMultistep(Sampler):
    """RES multistep, exponential Adams–Bashforth on x̂₀: second order by looking one step back, one call per step.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level, ′ for the previous step, r = h′/h, φ₁ = (1 − e^{−h})/h and
    φ₂ = (1 − φ₁)/h:
        x⁺ = (σ⁺/σ) x + h [(φ₁ + φ₂/r) x̂₀ − (φ₂/r) x̂₀′]

    x̂₀ is extrapolated linearly in λ and integrated exactly. DPM-Solver++(2M) uses its value at the middle of the step.
    The first step and the step to σ⁺ = 0 are Euler steps. (Zhang et al. 2023, arXiv:2308.02157, the multistep form)
    """

    order: ClassVar[int] = 2

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Node | None, noise: Noise
    ) -> tuple[Tensor, Node]:
        """x at `sigma` -> x at `sigma_next`. Memory: the prediction at `sigma`."""
        d = x0 = denoise(x, sigma)
        if memory is not None and sigma_next > 0:
            h, h_last = log_ratio(sigma, sigma_next), log_ratio(memory.sigma, sigma)
            now, before = adams_weights((0.0, -h_last / h), -h)
            d = torch.lerp(memory.value, x0, now / (now + before))
        return torch.lerp(d, x, sigma_next / sigma), Node(sigma, x0)
