"""Guidance by a nonlinear blend of the conditional and the unconditional prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from sdlab.guidance.base import Level, State
from sdlab.guidance.paired import Paired
from sdlab.guidance.space import from_space, to_space


class Blend(Paired, ABC):
    """A strategy that converts D(c) and D(∅) to its space and blends them there. A subclass defines `blend`.

    At scale 1 both are D(c).
    """

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """The blend, computed in the space."""
        moved = [to_space(self.space, one, x, sigma) for one in predictions]
        return from_space(self.space, self.blend(moved[-1], moved[0], sigma), x, sigma), state

    @abstractmethod
    def blend(self, cond: Tensor, uncond: Tensor, sigma: Level) -> Tensor:
        """The guided prediction (B, …) from the conditional and the unconditional one, all in the space."""
