"""RES multistep, the exponential Adams–Bashforth method of second order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from samplers.adams import Node, adams_weights, log_ratio
from samplers.base import Denoiser, Noise
from samplers.multistep import History, Multistep


@dataclass(frozen=True)
class RESMultistep(Multistep):
    """RES multistep, exponential Adams–Bashforth on x̂₀: second order by looking one step back, one call per step.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level, ′ for the previous step, r = h′/h, φ₁ = (1 − e^{−h})/h and
    φ₂ = (1 − φ₁)/h:
        x⁺ = (σ⁺/σ) x + h [(φ₁ + φ₂/r) x̂₀ − (φ₂/r) x̂₀′]

    x̂₀ is extrapolated linearly in λ and integrated exactly. DPM-Solver++(2M) uses its value at the middle of the step.
    The first step and the step to σ⁺ = 0 are Euler steps. (Zhang et al. 2023, arXiv:2308.02157, the multistep form)

    With `lower_order_final` the last step of a run of fewer than 15 steps is an Euler step on any grid.

    Raises:
        ValueError: lower_order_final is not True or False.
    """

    order: ClassVar[int] = 2

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: History | None, noise: Noise
    ) -> tuple[Tensor, History]:
        """x at `sigma` -> x at `sigma_next`. Memory: the prediction at `sigma`."""
        d = x0 = denoise(x, sigma)
        nodes, memory = (memory or History()).look_back(Node(sigma, x0), 2)
        if len(nodes) == 2 and sigma_next > 0:
            h, h_last = log_ratio(sigma, sigma_next), log_ratio(nodes[1].sigma, sigma)
            now, before = adams_weights((0.0, -h_last / h), -h)
            d = torch.lerp(nodes[1].value, x0, now / (now + before))
        return torch.lerp(d, x, sigma_next / sigma), memory
