"""DPM-Solver++(2S) ancestral (Crowson, k-diffusion, 2022; Lu et al. 2022, arXiv:2211.01095, Algorithm 1 with r = ½).

With σ_down, σ_up of samplers/ancestral.py, m = √(σ σ_down) and ⁺ for the next level:
    x_m = D(x, σ)   + (m/σ)(x − D(x, σ))
    x⁺  = D(x_m, m) + (σ_down/σ)(x − D(x_m, m)) + σ_up z

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
class DPMpp2SAncestral:
    """DPM-Solver++(2S) ancestral: second order in law, two calls a step, one for the step to zero.

    `eta` ≥ 0 scales the noise: 0 is DPM-Solver++(2S). ValueError for another eta.
    """

    order: ClassVar[int] = 2
    eta: float = 1.0

    def __post_init__(self) -> None:
        within("DPMpp2SAncestral.eta", self.eta, 0)

    @property
    def stochastic(self) -> bool:
        """True unless eta is 0."""
        return self.eta > 0

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`; remembers nothing."""
        q = sigma_next / sigma
        down, up = split(q, self.eta)
        x0 = denoise(x, sigma)
        if sigma_next * down > 0:
            middle = sqrt(sigma) * sqrt(sigma_next * down)
            x0 = denoise(torch.lerp(x0, x, middle / sigma), middle)
        out = torch.lerp(x0, x, q * down)
        if sigma_next * up > 0:
            out.add_(between(noise, sigma, sigma_next, x), alpha=sigma_next * up)
        return out, None

    def nfe(self, sigmas: Sequence[float]) -> int:
        """Two calls a step, one for a step whose σ_down is 0."""
        return sum(1 + (b * split(b / a, self.eta)[0] > 0) for a, b in pairwise(sigmas))
