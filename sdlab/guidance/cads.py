"""Condition-annealed sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from samplers.checks import within
from sdlab.guidance.base import COND, UNCOND, ContextNoise, Level, Query, State
from sdlab.guidance.scale import check_scale
from sdlab.guidance.schedule import time_of


@dataclass(frozen=True)
class ConditionAnnealed:
    """CADS: classifier-free guidance with noise on the prompt's context at high noise levels, for more diversity.

    With y the context, n standard normal, and γ = 1 for t ≤ tau1, (tau2 − t)/(tau2 − tau1) between, 0 for t ≥ tau2:
        y ← √γ y + noise √(1 − γ) n

    This is blended with the same context brought back to the mean and the standard deviation of y, `rescale` of it.
    Here t = (2/π) arctan σ. The noise of an image follows from its seed, is fresh at every call, and does not change
    the noise of the sampler. (Sadat et al. 2023, arXiv:2310.17347, alg. 1)

    Raises:
        ValueError: `scale` is below 0 or above 1000, `noise` is below 0, `rescale` is outside [0, 1], or not
            0 ≤ tau1 < tau2 ≤ 1.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0, "noise": 0.0}
    space: ClassVar[str] = "any"

    scale: float = 7.5
    noise: float = 0.25
    tau1: float = 0.6
    tau2: float = 0.9
    rescale: float = 1.0

    def __post_init__(self) -> None:
        check_scale("ConditionAnnealed.scale", self.scale)
        within("ConditionAnnealed.noise", self.noise, 0)
        within("ConditionAnnealed.rescale", self.rescale, 0, 1)
        within("ConditionAnnealed.tau1", self.tau1, 0, 1)
        within("ConditionAnnealed.tau2", self.tau2, 0, 1)
        if not self.tau1 < self.tau2:
            raise ValueError(f"ConditionAnnealed.tau2 must be above tau1 = {self.tau1!r}, got {self.tau2!r}")

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """The prediction with the annealed context and, unless the scale is 1, the unconditional one."""
        keep = min(1.0, max(0.0, (self.tau2 - time_of(sigma)) / (self.tau2 - self.tau1)))
        cond = COND if keep == 1 or self.noise == 0 else Query(noise=ContextNoise(keep, self.noise, self.rescale))
        return (cond,) if self.scale == 1 else (UNCOND, cond)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """Classifier-free guidance."""
        if len(predictions) == 1:
            return predictions[0], None
        uncond, cond = predictions
        return torch.lerp(uncond, cond, self.scale), None
