"""Feedback guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any, ClassVar

import torch
from torch import Tensor

from samplers.checks import within
from sdlab.guidance.base import COND, UNCOND, Level, Query, State
from sdlab.guidance.schedule import time_of
from sdlab.guidance.space import Space
from sdlab.guidance.vectors import column


@dataclass(frozen=True)
class Feedback:
    """Feedback guidance: each image is guided as strongly as its own path requires.

    The model is taken for a mixture of the true conditional law, with the share `mixing`, and the unconditional one.
    The path from σ′ to σ is judged by the densities of DDPM's step, N(μ, v) with μ = D + (σ²/σ′²)(x′ − D) and
    v = σ²(σ′² − σ²)/σ′². With ℓ the estimate of log p(c | x), 0 at the start:
        ℓ ← ℓ − temperature (|x − μ_c|² − |x − μ_∅|²)/2v + drift (t′ − t)
        D(∅) + w (D(c) − D(∅)),    w = e^ℓ/(e^ℓ − (1 − mixing)) ≤ limit

    At temperature 1 and drift 0, ℓ is log p(c | x) exactly in the limit of small steps, up to its value at the start.
    The drift, per unit of t = (2/π) arctan σ, raises guidance along the run. A call that does not begin a step keeps
    the weight. `mixing` 1 is the plain conditional model. In many dimensions ℓ soon reaches its upper limit of 3, where
    w is near 1, so the authors' code has a lower temperature: 0.2 |δ| v in the middle of the run, or 0.2 for latents.
    Its offset δ is per step. Times the number of steps it is ln(1.5 (1 − mixing))/(1 − t₀), or −5.2 at the defaults.
    (Koulischer et al. 2025, arXiv:2506.06085, alg. 1)

    Raises:
        ValueError: `mixing` is outside [0, 1], `limit` is not above 1, `temperature` is below 0, or `drift` is no
            finite number.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"mixing": 1.0}

    mixing: float = 0.95
    limit: float = 10.0
    temperature: float = 1.0
    drift: float = -5.0
    space: ClassVar[Space] = "x0"  # of the predictions whose densities are compared

    def __post_init__(self) -> None:
        within("Feedback.mixing", self.mixing, 0, 1)
        within("Feedback.limit", self.limit, 1, 1000)
        if self.limit == 1:
            raise ValueError("Feedback.limit must be above 1, got 1; for the plain model set mixing = 1")
        within("Feedback.temperature", self.temperature, 0)
        within("Feedback.drift", self.drift, -1000, 1000)

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """Both predictions, or one if `mixing` is 1."""
        return (COND,) if self.mixing == 1 else (UNCOND, COND)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """The guided x̂₀. State: ℓ, and x, both predictions and σ where the last step began."""
        if len(predictions) == 1:
            return predictions[0], None
        uncond, cond = predictions
        begins = state is None or sigma == sigma.step
        if state is None:
            belief = x.new_zeros(len(x)).clamp(min=self._lowest)
        else:
            belief = self._updated(x, sigma, state) if begins else state[0]
        share = belief.exp()
        weight = (share / (share - (1 - self.mixing))).clamp(max=self.limit)
        guided = uncond + column(weight, x) * (cond - uncond)
        now = (belief, x, cond, uncond, x.new_full((len(x),), sigma))
        return guided, now if begins else state

    def _updated(self, x: Tensor, sigma: float, state: tuple[Tensor, ...]) -> Tensor:
        """ℓ after the step that led to x."""
        belief, before, cond, uncond, level = state
        kept = column((sigma / level) ** 2, x)
        variance = (sigma**2 * (1 - (sigma / level) ** 2)).clamp(min=0)
        misses = [(x - one - kept * (before - one)).flatten(1).square().sum(1) for one in (cond, uncond)]
        change = -self.temperature * (misses[0] - misses[1]) / (2 * variance)
        drift = self.drift * (x.new_tensor([time_of(s) for s in level.tolist()]) - time_of(sigma))
        moved = torch.where(variance > 0, belief + change + drift, belief)  # a sampler may add noise, or stay
        return moved.clamp(min=self._lowest, max=3.0)

    @property
    def _lowest(self) -> float:
        """The ℓ at which the weight is the limit."""
        return log((1 - self.mixing) * self.limit / (self.limit - 1))
