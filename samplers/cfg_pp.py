"""CFG++: the guided prediction for the clean part of a step, the unconditional one for its noise."""

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
    """DDIM with CFG++ guidance: first order, one call per step.

    With D_w the guided and D_∅ the unconditional prediction of x₀, q = σ⁺/σ and ⁺ for the next level:
        x⁺ = D_w + q √(1 − η²(1 − q²)) (x − D_∅) + η σ⁺ √(1 − q²) z

    `eta` scales the noise: 0 is Euler, 1 is Euler ancestral. The paper's scale λ is in [0, 1], with D_w = D_∅ + λ (D(c)
    − D_∅). At η = 0 a step equals plain guidance at the scale w = λ/(1 − q). CFG++ guidance therefore grows with the
    number of steps and has no limit. The order is stated without guidance, D_w = D_∅. (Chung et al. 2024,
    arXiv:2406.08070)

    Raises:
        ValueError: eta is not in [0, 1], or the denoiser has no `with_uncond`.
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
        """x at `sigma` -> x at `sigma_next`. No memory."""
        guided, uncond = _guided("ddim_cfg_pp", denoise).with_uncond(x, sigma)
        q = sigma_next / sigma
        fresh = self.eta**2 * (1 - q * q)
        out = torch.add(guided, x - uncond, alpha=q * sqrt(1 - fresh))
        if sigma_next * fresh > 0:
            out.add_(between(noise, sigma, sigma_next, x), alpha=sigma_next * sqrt(fresh))
        return out, None


@dataclass(frozen=True)
class DPMpp2MCFGpp(Sampler):
    """DPM-Solver++(2M) with CFG++ guidance: second order by looking one step back, one call per step.

    With D_w the guided and D_∅ the unconditional prediction of x₀, q = σ⁺/σ, h = log(σ/σ⁺), ⁺ for the next level and
    ′ for the previous step:
        x⁺ = D_w + q (x − D_∅) + (1 − q)(h/2h′)(D_w − D_∅′)

    This is the form of the authors' code. The order is stated without guidance, D_w = D_∅. The first step and the step
    to σ⁺ = 0 omit the last term. (Chung et al. 2024, arXiv:2406.08070)

    Raises:
        ValueError: the denoiser has no `with_uncond`.
    """

    order: ClassVar[int] = 2

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Node | None, noise: Noise
    ) -> tuple[Tensor, Node]:
        """x at `sigma` -> x at `sigma_next`. Memory: the unconditional prediction at `sigma`."""
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
            f"{name} needs a guided denoiser, with a method with_uncond(x, sigma) -> (guided, unconditional)"
        )
    return denoise
