"""Guidance by a nonlinear blend of the conditional and the unconditional prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from samplers.checks import one_of
from sdlab.guidance.base import COND, UNCOND, Level, Query, State
from sdlab.guidance.scale import check_scale
from sdlab.guidance.space import SPACES, Space, from_space, to_space


class Blend(ABC):
    """A strategy that blends D(c) and D(∅) in one `space`, on which the result depends. A subclass defines `blend`.

    At scale 1 the unconditional prediction is not made, and both are D(c).

    Raises:
        ValueError: `scale` is below 0 or above 1000, or `space` is unknown.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0}

    scale: float
    space: Space

    def __post_init__(self) -> None:
        check_scale(f"{type(self).__name__}.scale", self.scale)
        one_of(f"{type(self).__name__}.space", self.space, SPACES)

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """One prediction at scale 1, otherwise both."""
        return (COND,) if self.scale == 1 else (UNCOND, COND)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """The blend, computed in the space."""
        moved = [to_space(self.space, one, x, sigma) for one in predictions]
        return from_space(self.space, self.blend(moved[-1], moved[0], sigma), x, sigma), state

    @abstractmethod
    def blend(self, cond: Tensor, uncond: Tensor, sigma: Level) -> Tensor:
        """The guided prediction (B, …) from the conditional and the unconditional one, all in the space."""

    def plain(self, cond: Tensor, uncond: Tensor) -> Tensor:
        """Classifier-free guidance, ∅ + scale (c − ∅)."""
        return cond if uncond is cond else torch.lerp(uncond, cond, self.scale)
