"""DPM-Solver++(2M), the multistep method on x̂₀ (Lu et al. 2022, Algorithm 2).

With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level and ′ for the previous step:
    D  = x̂₀ + (h/2h′)(x̂₀ − x̂₀′)            extrapolated to the middle of the step
    x⁺ = (σ⁺/σ) x + (1 − σ⁺/σ) D            exact while D is constant

The first step, and the one to σ⁺ = 0, take D = x̂₀.  https://arxiv.org/abs/2211.01095
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise


class Prediction(NamedTuple):
    """What a multistep rule remembers of its last step."""

    sigma: float
    x0: Tensor


@dataclass(frozen=True)
class DPMpp2M:
    """DPM-Solver++(2M): second order by looking one step back, one call a step."""

    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = False

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        memory: Prediction | None,
        noise: Noise,
    ) -> tuple[Tensor, Prediction]:
        """x at `sigma` -> x at `sigma_next`; remembers the prediction at `sigma`."""
        d = x0 = denoise(x, sigma)
        if memory is not None and sigma_next > 0:
            h, h_last = log(sigma / sigma_next), log(memory.sigma / sigma)
            d = torch.lerp(memory.x0, x0, 1 + h / (2 * h_last))
        return torch.lerp(d, x, sigma_next / sigma), Prediction(sigma, x0)

    def nfe(self, sigmas: Sequence[float]) -> int:
        """One call a step."""
        return len(sigmas) - 1
