"""β-CFG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from samplers.checks import within
from sdlab.guidance.base import COND, UNCOND, Level, Query
from sdlab.guidance.blend import Blend
from sdlab.guidance.schedule import STEEPEST, beta, time_of
from sdlab.guidance.space import Space
from sdlab.guidance.vectors import norm


@dataclass(frozen=True)
class BetaGuidance(Blend):
    """β-CFG: the difference of the predictions over a power of its norm, with a Beta density as its weight.

    With c and u the predictions of ε, Δ = c − u, and β the density of the Beta(a, b) distribution at 1 − t:
        u + scale β Δ/|Δ|^gamma

    Here t = (2/π) arctan σ, where the paper takes the fraction of steps. The weight is 0 at both ends, which is the
    unconditional model. There is no neutral scale. At a = b = 1 and gamma 0 this is classifier-free guidance.
    (Malarz et al. 2025, arXiv:2502.10574)

    Raises:
        ValueError: `scale` is below 0 or above 1000, `a` or `b` is outside [1, 50], `gamma` is outside [0, 1], or
            `space` is unknown.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0, "a": 1.0, "b": 1.0, "gamma": 0.0}

    scale: float = 7.5
    a: float = 2.0
    b: float = 3.0
    gamma: float = 1.0
    space: Space = "eps"

    def __post_init__(self) -> None:
        super().__post_init__()
        within("BetaGuidance.a", self.a, 1, STEEPEST)
        within("BetaGuidance.b", self.b, 1, STEEPEST)
        within("BetaGuidance.gamma", self.gamma, 0, 1)

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """Both predictions, or one where the result is that one."""
        if self.scale == self.a == self.b == 1 and self.gamma == 0:
            return (COND,)
        return (UNCOND, COND)

    def blend(self, cond: Tensor, uncond: Tensor, sigma: Level) -> Tensor:
        """The guided ε."""
        change = cond - uncond
        direction = change / norm(change).clamp(min=torch.finfo(change.dtype).tiny) ** self.gamma
        return uncond + self.scale * beta(time_of(sigma), self.a, self.b) * direction
