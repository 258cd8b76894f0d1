"""DPM2, the midpoint method at the geometric middle of a step."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler
from samplers.checks import one_of
from samplers.flow_time import CLOCKS, ClockName, along, geometric_middle, velocity


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

    With `clock` "flow" m is the level of the time √(t t⁺) of a rectified flow, t = σ/(1 + σ), and the slope is its
    velocity v_m = (x_m − D(x_m, m))/m − D(x_m, m), as ComfyUI's dpm_2 takes it on flow models:
        x⁺ = [(1 + σ⁺) x + (σ⁺ − σ) v_m]/(1 + σ)

    Raises:
        ValueError: clock is neither "sigma" nor "flow".
    """

    order: ClassVar[int] = 2
    clock: ClockName = "sigma"

    def __post_init__(self) -> None:
        one_of("DPM2.clock", self.clock, CLOCKS)

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            return torch.lerp(x0, x, 0.0), None
        flow = self.clock == "flow"
        middle = geometric_middle(sigma, sigma_next) if flow else sqrt(sigma) * sqrt(sigma_next)
        x_middle = torch.lerp(x0, x, middle / sigma)
        if flow:
            return along(x, velocity(x_middle, denoise(x_middle, middle), middle), sigma, sigma_next), None
        slope = x_middle - denoise(x_middle, middle)  # m d_m
        return torch.add(x, slope, alpha=(sigma_next - sigma) / middle), None
