"""DPM2 ancestral: the midpoint method to below the next level, and fresh noise up to it (Crowson, k-diffusion, 2022).

With σ_down, σ_up of samplers/ancestral.py, m = √(σ σ_down) and ⁺ for the next level:
    d   = (x − D(x, σ))/σ,        x_m = x + (m − σ) d
    d_m = (x_m − D(x_m, m))/m,    x⁺  = x + (σ_down − σ) d_m + σ_up z

Where σ_down = 0 (the step to 0, or all noise drawn afresh) it is Euler's: x⁺ = D(x, σ) + σ_up z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from samplers.ancestral import split
from samplers.base import Denoiser, Noise, between
from samplers.checks import within


@dataclass(frozen=True)
class DPM2Ancestral:
    """DPM2 ancestral: second order in law, two calls a step, one for the step to zero.

    `eta` ≥ 0 scales the noise: 0 is DPM2. ValueError for another eta.
    """

    order: ClassVar[int] = 2
    eta: float = 1.0

    def __post_init__(self) -> None:
        within("DPM2Ancestral.eta", self.eta, 0)

    @property
    def stochastic(self) -> bool:
        """True unless eta is 0."""
        return self.eta > 0

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`; remembers nothing."""
        down, up = split(sigma_next / sigma, self.eta)
        sigma_down = sigma_next * down
        x0 = denoise(x, sigma)
        if sigma_down == 0:
            out = torch.lerp(x0, x, 0.0)
        else:
            middle = sqrt(sigma) * sqrt(sigma_down)
            x_middle = torch.lerp(x0, x, middle / sigma)
            slope = x_middle - denoise(x_middle, middle)  # m d_m
            out = torch.add(x, slope, alpha=(sigma_down - sigma) / middle)
        if sigma_next * up > 0:
            out.add_(between(noise, sigma, sigma_next, x), alpha=sigma_next * up)
        return out, None

    def nfe(self, sigmas: Sequence[float]) -> int:
        """Two calls a step, one for a step whose σ_down is 0."""
        return sum(1 + (b * split(b / a, self.eta)[0] > 0) for a, b in pairwise(sigmas))
