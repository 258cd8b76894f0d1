"""LCM, multistep sampling of consistency models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler


@dataclass(frozen=True)
class LCM(Sampler):
    """The consistency step, for distilled networks only: exact in law if the network is exact, one call per step.

    With f(x, σ) a network distilled to return the end of the probability flow from (x, σ), and ⁺ for the next level:
        x⁺ = f(x, σ) + σ⁺ z

    `order` is 0 because more steps do not help a denoiser that is a posterior mean. Its samples have too little spread.
    (Song et al. 2023, arXiv:2303.01469, Algorithm 1; Luo et al. 2023, arXiv:2310.04378)
    """

    order: ClassVar[int] = 0
    stochastic: ClassVar[bool] = True

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        x0 = denoise(x, sigma)
        return (torch.add(x0, noise(x), alpha=sigma_next) if sigma_next > 0 else torch.lerp(x0, x, 0.0)), None
