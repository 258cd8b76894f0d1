"""Guidance by the conditional and the unconditional prediction, compared in a space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from samplers.checks import one_of
from sdlab.guidance.base import COND, UNCOND, Level, Query
from sdlab.guidance.scale import check_scale
from sdlab.guidance.space import SPACES, Space


class Paired:
    """A strategy with a `scale` that makes x̂₀ of D(c) and D(∅) in a way that depends on the `space`.

    At scale 1 the unconditional prediction is not made. A subclass defines `combine`.

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

    def plain(self, cond: Tensor, uncond: Tensor) -> Tensor:
        """Classifier-free guidance, ∅ + scale (c − ∅), which is the same in every space."""
        return cond if uncond is cond else torch.lerp(uncond, cond, self.scale)
