"""Guidance by an affine blend of two predictions, usually the conditional and the unconditional one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from sdlab.guidance.base import COND, UNCOND, Query, State


class Affine(ABC):
    """D(∅) + w(σ) (D(c) − D(∅)). A strategy of this form is a subclass that defines `weight`.

    The coefficients sum to 1, so guiding x̂₀, ε or v gives the same picture. Weights 0 and 1 need one prediction only.
    A subclass can blend two other predictions with `pair`.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0}
    space: ClassVar[str] = "any"

    def pair(self) -> tuple[Query, Query]:
        """The predictions of weights 0 and 1."""
        return UNCOND, COND

    @abstractmethod
    def weight(self, sigma: float) -> float:
        """w at level σ. 1 is the plain conditional model, 0 the unconditional one."""

    def queries(self, sigma: float) -> tuple[Query, ...]:
        """One prediction at weights 0 and 1, otherwise both."""
        weight, (uncond, cond) = self.weight(sigma), self.pair()
        if weight == 1:
            return (cond,)
        return (uncond,) if weight == 0 else (uncond, cond)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: float, state: State) -> tuple[Tensor, State]:
        """The blend, or the single prediction."""
        if len(predictions) == 1:
            return predictions[0], None
        uncond, cond = predictions
        return torch.lerp(uncond, cond, self.weight(sigma)), None
