"""RES multistep, the exponential Adams–Bashforth methods of second and third order on x̂₀."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from samplers.adams import Node, adams_weights, along_predictions, log_nodes, log_ratio, phi
from samplers.base import Denoiser, Noise
from samplers.checks import one_of
from samplers.multistep import History, Multistep
from samplers.res_single import RES2S, RES3S

FORMS = ("adams", "single_step_start", "res4lyf")
SINGLE: dict[int, RES2S | RES3S] = {2: RES2S(), 3: RES3S()}
LONG, LOW = 1.0, 0.1  # RES4LYF's limits: the length of a step in λ, and the level below which it takes Euler's


@dataclass(frozen=True)
class RESMultistep(Multistep):
    """RES multistep, exponential Adams–Bashforth on x̂₀: order `max_order`, one call per step after the start.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level, ′ for the previous step, r = h′/h, φ₁ = (1 − e^{−h})/h and
    φ₂ = (1 − φ₁)/h, order 2 is
        x⁺ = (σ⁺/σ) x + h [(φ₁ + φ₂/r) x̂₀ − (φ₂/r) x̂₀′]

    x̂₀ is extrapolated linearly in λ and integrated exactly; order 3 takes the parabola through three predictions.
    DPM-Solver++(2M) uses the value at the middle of the step. The step to σ⁺ = 0 is an Euler step.

    `form` is what a step does that has fewer than `max_order` predictions:
        adams               uses those there are, the first step being Euler's; one call
        single_step_start   is `res_2s` or `res_3s`, of `max_order` calls
        res4lyf             as RES4LYF's res_2m and res_3m: one such step more, and also every step with h ≥ 1, or an
                            Euler step in its place if σ < 0.1

    With the last two a run makes more calls than steps. RES4LYF's weights of order 3, which "res4lyf" takes too, are
    those of `res_3s` at c₂ = −h′/h and c₃ = −(h′ + h″)/h, but their γ has 3c₃³ − 2c₃ in place of 3c₃² − 2c₃. This is
    the same at c₃ = 1 alone, and so they are of second order. (Zhang et al. 2023, arXiv:2308.02157, the multistep form;
    ClownsharkBatwing 2025, res4lyf)

    With `lower_order_final`, in a run of fewer than 15 steps, the last step is an Euler step on any grid, and the one
    before it uses two predictions at most.

    Raises:
        ValueError: max_order is not 2 or 3, form is unknown, or lower_order_final is not True or False.
    """

    max_order: int = 2
    form: Literal["adams", "single_step_start", "res4lyf"] = "adams"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("RESMultistep.max_order", self.max_order, (2, 3))
        one_of("RESMultistep.form", self.form, FORMS)

    @property
    def order(self) -> int:
        """`max_order`; 2 for the form "res4lyf"."""
        return 2 if self.form == "res4lyf" else self.max_order

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: History | None, noise: Noise
    ) -> tuple[Tensor, History]:
        """x at `sigma` -> x at `sigma_next`. Memory: the last predictions."""
        x0, history = denoise(x, sigma), memory or History()
        theirs = self.form == "res4lyf"
        keep = self.max_order + theirs  # predictions, with which a step is multistep
        known = (Node(sigma, x0), *history.nodes)[:keep]
        history = history._replace(nodes=known[: keep - 1])
        limit = history.limit(sigma, self.max_order)
        if sigma_next == 0 or limit == 1:
            return torch.lerp(x0, x, sigma_next / sigma), history
        h = log_ratio(sigma, sigma_next)
        long = theirs and h >= LONG
        if long and sigma < LOW:
            return torch.lerp(x0, x, sigma_next / sigma), history
        if long or (self.form != "adams" and len(known) < keep):
            return SINGLE[self.max_order].after(x0, denoise, x, sigma, sigma_next), history
        nodes = known[:limit]
        if len(nodes) == 1:
            return torch.lerp(x0, x, sigma_next / sigma), history
        places = log_nodes(nodes, h)
        if len(nodes) == 2:
            now, before = adams_weights(places, -h)
            d = torch.lerp(nodes[1].value, x0, now / (now + before))
            return torch.lerp(d, x, sigma_next / sigma), history
        weights = _res4lyf(places, -h) if theirs else adams_weights(places, -h)
        return along_predictions(x, sigma_next / sigma, nodes, [h * weight for weight in weights]), history


def _res4lyf(places: Sequence[float], z: float) -> tuple[float, float, float]:
    """RES4LYF's weights of three predictions."""
    _, c2, c3 = places
    first, second = phi(2, z)
    gamma = (3 * c3**3 - 2 * c3) / (c2 * (2 - 3 * c2))
    third = second / (gamma * c2 + c3)
    return first - (1 + gamma) * third, gamma * third, third
