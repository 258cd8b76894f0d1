"""Guidance in the sampler: CFG++ and Rectified-CFG++, which use the guided and the unconditional prediction apart."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Literal

import torch
from torch import Tensor

from samplers.adams import Node, log_ratio
from samplers.base import Denoiser, Noise, Sampler, between
from samplers.checks import one_of, within
from samplers.denoiser import GuidedDenoiser, is_guided

Variant = Literal["published", "corrected"]
VARIANTS = ("published", "corrected")


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

    This is the form of the authors' code. Its last difference does not vanish as steps become short, because it also
    has the guidance D_w − D_∅. `variant` "corrected" has D_w − D_w′ there, which is the change of one prediction. The
    order is stated without guidance, D_w = D_∅. The first step and the step to σ⁺ = 0 omit the last term. (Chung et al.
    2024, arXiv:2406.08070)

    Raises:
        ValueError: `variant` is unknown, or the denoiser has no `with_uncond`.
    """

    order: ClassVar[int] = 2
    variant: Variant = "published"

    def __post_init__(self) -> None:
        one_of("DPMpp2MCFGpp.variant", self.variant, VARIANTS)

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Node | None, noise: Noise
    ) -> tuple[Tensor, Node]:
        """x at `sigma` -> x at `sigma_next`. Memory: the prediction at `sigma` that the next one is compared with."""
        guided, uncond = _guided("dpmpp_2m_cfg_pp", denoise).with_uncond(x, sigma)
        q = sigma_next / sigma
        out = torch.add(guided, x - uncond, alpha=q)
        if memory is not None and sigma_next > 0:
            ahead = log_ratio(sigma, sigma_next) / (2 * log_ratio(memory.sigma, sigma))
            out.add_(guided - memory.value, alpha=(1 - q) * ahead)
        return out, Node(sigma, uncond if self.variant == "published" else guided)


@dataclass(frozen=True)
class RectifiedCFGpp(Sampler):
    """Rectified-CFG++: a predictor without guidance, and a corrector with it. First order, two calls per step.

    In the clock of a rectified flow, t = σ/(1 + σ) and x̄ = x/(1 + σ), with velocities v = ε − x̂₀ and ⁺ for the next
    level:
        x̃  = x̄ + reach (t⁺ − t) v(x̄, t)                                predictor, to the time t̃
        x̄⁺ = x̄ + (t⁺ − t)(v(x̄, t) + alpha (v(x̃, t̃) − v_∅(x̃, t̃)))     corrector

    v is the velocity of the denoiser and v_∅ that of its unconditional prediction. The paper has no guidance in v, so
    its guidance strategy is `none`, and a step takes three passes. As steps become short this is classifier-free
    guidance at scale 1 + alpha. The paper predicts half a step. Its code predicts the whole step, `reach` 1, but then
    evaluates the corrector almost at the time where the step began, as it adds a step in units of t from 0 to 1 to a
    time from 0 to 1000. Here the corrector is evaluated at the time that the predictor reaches. The order is stated
    without guidance. (Saini et al. 2025, arXiv:2510.07631)

    Raises:
        ValueError: `alpha` is below 0, `reach` is outside [0, 1], or the denoiser has no `with_uncond`.
    """

    alpha: float = 2.5
    reach: float = 0.5

    def __post_init__(self) -> None:
        within("RectifiedCFGpp.alpha", self.alpha, 0)
        within("RectifiedCFGpp.reach", self.reach, 0, 1)

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        denoise = _guided("rectified_cfg_pp", denoise)
        x0 = denoise(x, sigma)
        out = torch.lerp(x0, x, sigma_next / sigma)
        time, time_next = sigma / (1 + sigma), sigma_next / (1 + sigma_next)
        reached = time + self.reach * (time_next - time)
        if reached == 0:  # both predictions are then the same
            return out, None
        level = min(sigma, max(sigma_next, reached / (1 - reached)))  # between them in spite of rounding
        guided, uncond = denoise.with_uncond(torch.lerp(x0, x, level / sigma), level)
        # v − v_∅ = −(D − D_∅)/t̃ at t̃, and (1 + σ⁺)(t − t⁺) = (σ − σ⁺)/(1 + σ)
        out.add_(guided - uncond, alpha=self.alpha * (sigma - sigma_next) / (1 + sigma) / reached)
        return out, None


def _guided(name: str, denoise: Denoiser) -> GuidedDenoiser:
    if not is_guided(denoise):
        raise ValueError(
            f"{name} needs a guided denoiser, with a method with_uncond(x, sigma) -> (guided, unconditional)"
        )
    return denoise
