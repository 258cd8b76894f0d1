"""Momentum guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from samplers.checks import within
from sdlab.guidance.base import Level, State
from sdlab.guidance.paired import Paired
from sdlab.guidance.space import Space, from_space, to_space


@dataclass(frozen=True)
class Momentum(Paired):
    """Momentum guidance: the prediction away from a running average of those before it, with no pass of its own.

    With D the prediction of classifier-free guidance as a velocity, and m the average before this call:
        D + alpha (D − m),    m⁺ = (1 − beta) D + beta m

    The first call leaves D as it is. Predictions at different levels are compared, so the space matters.
    (Liao et al. 2026, arXiv:2602.20360)

    Raises:
        ValueError: `scale` is below 0 or above 1000, `alpha` is below 0, `beta` is outside [0, 1], or `space` is
            unknown.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0, "alpha": 0.0}

    scale: float = 1.0
    alpha: float = 0.5
    beta: float = 0.6
    space: Space = "flow"

    def __post_init__(self) -> None:
        super().__post_init__()
        within("Momentum.alpha", self.alpha, 0)
        within("Momentum.beta", self.beta, 0, 1)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """The guided x̂₀. State: the average, in the space."""
        now = to_space(self.space, self.plain(predictions[-1], predictions[0]), x, sigma)
        average = now if state is None else state[0]
        guided = now + self.alpha * (now - average)
        return from_space(self.space, guided, x, sigma), (now + self.beta * (average - now),)
