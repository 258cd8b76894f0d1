"""CFG++: the guided prediction for the clean part of a step, the unconditional one for its noise (Chung et al. 2024).

With D_w the guided and D_∅ the unconditional x̂₀, q = σ⁺/σ, h = log(σ/σ⁺), ⁺ for the next level, ′ for the last step:
    DDIM      x⁺ = D_w + q √(1 − η²(1−q²)) (x − D_∅) + η σ⁺ √(1−q²) z                   η = 1 is Euler ancestral
    DPM++ 2M  x⁺ = D_w + q (x − D_∅) + (1 − q)(h/2h′)(D_w − D_∅′)                       the authors' code

The paper's scale λ lies in [0, 1]: D_w = D_∅ + λ (D(c) − D_∅). A step of DDIM with it is one of plain guidance at the
scale w = λ/(1 − q) (η = 0), so CFG++ is guidance that grows with the number of steps: it has no limit as they become
many, and `order` is that without guidance, D_w = D_∅.                                   https://arxiv.org/abs/2406.08070
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from samplers.adams import Node, log_ratio
from samplers.base import Denoiser, Noise, Sampler, between
from samplers.checks import within
from samplers.denoiser import GuidedDenoiser, is_guided


@dataclass(frozen=True)
class DDIMCFGpp(Sampler):
    """DDIM with CFG++ guidance, from Euler (eta 0) to Euler ancestral (eta 1): one call a step.

    The denoiser must have `with_uncond(x, sigma) -> (guided x̂₀, unconditional x̂₀)`; ValueError where it has not, and
    unless 0 ≤ eta ≤ 1.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        within("DDIMCFGpp.eta", self.eta, 0, 1)

    @property
    def stochastic(self) -> bool:
        """True unless eta is 0."""
        return self.eta > 0

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`; remembers nothing."""
        guided, uncond = _guided("ddim_cfg_pp", denoise).with_uncond(x, sigma)
        q = sigma_next / sigma
        fresh = self.eta**2 * (1 - q * q)
        out = torch.add(guided, x - uncond, alpha=q * sqrt(1 - fresh))
        if sigma_next * fresh > 0:
            out.add_(between(noise, sigma, sigma_next, x), alpha=sigma_next * sqrt(fresh))
        return out, None


@dataclass(frozen=True)
class DPMpp2MCFGpp(Sampler):
    """DPM-Solver++(2M) with CFG++ guidance: one call a step.

    The denoiser must have `with_uncond(x, sigma) -> (guided x̂₀, unconditional x̂₀)`; ValueError where it has not.
    """

    order: ClassVar[int] = 2

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Node | None, noise: Noise
    ) -> tuple[Tensor, Node]:
        """x at `sigma` -> x at `sigma_next`; remembers the unconditional prediction at `sigma`."""
        guided, uncond = _guided("dpmpp_2m_cfg_pp", denoise).with_uncond(x, sigma)
        q = sigma_next / sigma
        out = torch.add(guided, x - uncond, alpha=q)
        if memory is not None and sigma_next > 0:
            ahead = log_ratio(sigma, sigma_next) / (2 * log_ratio(memory.sigma, sigma))
            out.add_(guided - memory.value, alpha=(1 - q) * ahead)
        return out, Node(sigma, uncond)


def _guided(name: str, denoise: Denoiser) -> GuidedDenoiser:
    if not is_guided(denoise):
        raise ValueError(
            f"{name} needs a guided denoiser, one with a method with_uncond(x, sigma) -> (guided, unconditional)"
        )
    return denoise
