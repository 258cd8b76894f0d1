"""Dynamic thresholding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor

from samplers.checks import positive, within
from sdlab.guidance.base import Level
from sdlab.guidance.blend import Blend
from sdlab.guidance.space import Space
from sdlab.guidance.vectors import column


@dataclass(frozen=True)
class DynamicThresholding(Blend):
    """Classifier-free guidance whose x̂₀ is clipped at a percentile of its absolute values, and shrunk to the limit.

    With s the percentile of |x̂₀| per image, but at least `limit`:
        clip(x̂₀, −s, s) limit/s

    The limit of pixels is 1. The paper's authors advise against thresholds for latents, which are unbounded; a limit
    there should be the range of the data. An infinite limit leaves the threshold out. It also acts at scale 1.
    (Saharia et al. 2022, arXiv:2205.11487, sec. 2.3)

    Raises:
        ValueError: `scale` is below 0 or above 1000, `percentile` is outside [0, 1], `limit` is not above 0, or `space`
            is unknown.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0, "limit": inf}

    scale: float = 7.5
    percentile: float = 0.995
    limit: float = 1.0
    space: Space = "x0"

    def __post_init__(self) -> None:
        super().__post_init__()
        within("DynamicThresholding.percentile", self.percentile, 0, 1)
        if self.limit != inf:
            positive("DynamicThresholding.limit", self.limit)

    def blend(self, cond: Tensor, uncond: Tensor, sigma: Level) -> Tensor:
        """The clipped guided prediction."""
        guided = self.plain(cond, uncond)
        if self.limit == inf:
            return guided
        at = torch.quantile(guided.flatten(1).abs(), self.percentile, dim=1).clamp(min=self.limit)
        return guided.clamp(-column(at, guided), column(at, guided)) * (self.limit / column(at, guided))
