"""Heun's method, the trapezoidal rule on the probability-flow ODE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler
from samplers.checks import one_of
from samplers.flow_time import CLOCKS, ClockName, along, velocity


@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's method on the probability-flow ODE: second order, two calls per step.

    With ⁺ for the next level, and x_e Euler's step:
        d   = (x − D(x, σ))/σ
        x_e = x + (σ⁺ − σ) d
        d⁺  = (x_e − D(x_e, σ⁺))/σ⁺
        x⁺  = x + (σ⁺ − σ)(d + d⁺)/2

    The step to σ⁺ = 0 is an Euler step and makes one call. (Karras et al. 2022, arXiv:2206.00364, Algorithm 1)

    With `clock` "flow" it is Heun's method in the time t = σ/(1 + σ) of a rectified flow, on its state x/(1 + σ). The
    slopes are velocities v = (x − D)/σ − D:
        x⁺ = [(1 + σ⁺) x + (σ⁺ − σ)(v + v⁺)/2]/(1 + σ)

    This is diffusers' FlowMatchHeunDiscreteScheduler. It is the one for flow models, whose first step from t ≈ 1 is of
    ordinary length in t and far too long for a parabola in σ.

    Raises:
        ValueError: clock is neither "sigma" nor "flow".
    """

    order: ClassVar[int] = 2
    clock: ClockName = "sigma"

    def __post_init__(self) -> None:
        one_of("Heun.clock", self.clock, CLOCKS)

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        x0 = denoise(x, sigma)
        euler = torch.lerp(x0, x, sigma_next / sigma)  # x + (σ⁺ − σ) d, and exactly x̂₀ at σ⁺ = 0
        if sigma_next == 0:
            return euler, None
        if self.clock == "flow":
            slope = velocity(x, x0, sigma).add_(velocity(euler, denoise(euler, sigma_next), sigma_next)).div_(2)
            return along(x, slope, sigma, sigma_next), None
        half = (sigma_next - sigma) / 2
        d = x - x0  # the 1/σ is folded into the factors below
        d_next = euler - denoise(euler, sigma_next)  # times 1/σ⁺
        return torch.add(x, d, alpha=half / sigma).add_(d_next, alpha=half / sigma_next), None
