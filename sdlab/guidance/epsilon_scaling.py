"""Epsilon scaling against exposure bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from samplers.checks import within
from sdlab.guidance.base import Level
from sdlab.guidance.blend import Blend
from sdlab.guidance.space import Space


@dataclass(frozen=True)
class EpsilonScaling(Blend):
    """Classifier-free guidance with ε divided by `factor`, which is slightly above 1.

    A network is trained on noisy pictures and sampled on its own results, whose noise it overestimates. Scale 1 costs
    one pass. (Ning et al. 2023, arXiv:2308.15321, sec. 5)

    Raises:
        ValueError: `scale` is below 0 or above 1000, `factor` is outside [0.01, 100], or `space` is unknown.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0, "factor": 1.0}

    scale: float = 1.0
    factor: float = 1.005
    space: Space = "eps"

    def __post_init__(self) -> None:
        super().__post_init__()
        within("EpsilonScaling.factor", self.factor, 0.01, 100)

    def blend(self, cond: Tensor, uncond: Tensor, sigma: Level) -> Tensor:
        """ε over the factor."""
        return self.plain(cond, uncond) / self.factor
