"""Perp-Neg."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sdlab.guidance.base import COND, UNCOND, Level, Query, State
from sdlab.guidance.scale import check_scale
from sdlab.guidance.vectors import dot, ratio

_EMPTY = Query(prompt="")


@dataclass(frozen=True)
class PerpendicularNegative:
    """Perp-Neg: away from the negative prompt, but only across the direction of the prompt.

    With D(c), D(n) and D(∅) the predictions with the prompt, the negative prompt and an empty prompt, per image:
        p = D(c) − D(∅),    q = D(n) − D(∅)
        D(∅) + scale (p − negative (q − p ⟨q, p⟩/|p|²))

    So a negative prompt that resembles the prompt does not weaken it. Without a negative prompt there is nothing to
    steer away from, and at `negative` 0 this is classifier-free guidance. (Armandpour et al. 2023, arXiv:2304.04968)

    Raises:
        ValueError: `scale` or `negative` is below 0 or above 1000.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0, "negative": 0.0}
    space: ClassVar[str] = "any"  # differences have the same directions in all of them

    scale: float = 7.5
    negative: float = 1.0

    def __post_init__(self) -> None:
        check_scale("PerpendicularNegative.scale", self.scale)
        check_scale("PerpendicularNegative.negative", self.negative)

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """The predictions with the empty prompt, the prompt and the negative prompt, without those of no weight."""
        if self.scale == 0:
            return (_EMPTY,)
        if self.negative == 0:
            return (COND,) if self.scale == 1 else (_EMPTY, COND)
        return _EMPTY, COND, UNCOND

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """The guided x̂₀."""
        if len(predictions) == 1:
            return predictions[0], state
        empty, cond, *negatives = predictions
        toward = along = cond - empty
        for negative in negatives:
            away = negative - empty
            toward = toward - self.negative * (away - ratio(dot(away, along), dot(along, along)) * along)
        return empty + self.scale * toward, state
