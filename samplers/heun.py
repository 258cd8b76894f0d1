"""Heun's method, the trapezoidal rule on the probability-flow ODE (Karras et al. 2022, Algorithm 1).

With ⁺ for the next level:
    d  = (x − D(x, σ))/σ,         x_e = x + (σ⁺ − σ) d           Euler's step
    d′ = (x_e − D(x_e, σ⁺))/σ⁺,   x⁺  = x + (σ⁺ − σ)(d + d′)/2

The step to σ⁺ = 0 is Euler's.  https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise


@dataclass(frozen=True)
class Heun:
    """Heun's method on the probability-flow ODE: second order, two calls a step, one for the step to zero."""

    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = False

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`; remembers nothing."""
        euler = torch.lerp(denoise(x, sigma), x, sigma_next / sigma)
        if sigma_next == 0:
            return euler, None
        # x + h (d + d′)/2 is halfway from x to x_e + h d′, and x_e + h d′ lies on the line from D(x_e, σ⁺) to x_e.
        twice = torch.lerp(denoise(euler, sigma_next), euler, 2 - sigma / sigma_next)
        return torch.lerp(x, twice, 0.5), None

    def nfe(self, sigmas: Sequence[float]) -> int:
        """Two calls a step, one for a step to 0."""
        steps = len(sigmas) - 1
        return 2 * steps - (steps > 0 and sigmas[-1] == 0)
