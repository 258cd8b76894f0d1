"""Guidance away from a worse prediction of the same prompt, beside classifier-free guidance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sdlab.guidance.base import COND, UNCOND, Query, State
from sdlab.guidance.scale import check_scale


@dataclass(frozen=True)
class Contrast(ABC):
    """D(∅) + cfg (D(c) − D(∅)) + scale (D(c) − D′(c)). A strategy of this form is a subclass that defines `worse`.

    A subclass can take another prediction than D(c) as the one that is better than D′, with `better`. The coefficients
    sum to 1, so guiding x̂₀, ε or v gives the same picture. `scale` 0 is plain classifier-free guidance, and `cfg` 1
    needs no unconditional prediction.

    Raises:
        ValueError: `scale` or `cfg` is below 0 or above 1000.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"scale": 0.0, "cfg": 1.0}
    space: ClassVar[str] = "any"

    scale: float = 3.0
    cfg: float = 1.0

    def __post_init__(self) -> None:
        check_scale(f"{type(self).__name__}.scale", self.scale)
        check_scale(f"{type(self).__name__}.cfg", self.cfg)
        self.worse(1.0)  # checks the options of the perturbation

    @abstractmethod
    def worse(self, sigma: float) -> Query:
        """The query of the worse prediction D′(c) at level σ."""

    def better(self, sigma: float) -> Query:
        """The query of the prediction that is better than D′(c) at level σ."""
        return COND

    def queries(self, sigma: float) -> tuple[Query, ...]:
        """The unconditional, the conditional and the worse prediction, without those that have no weight."""
        plain = (*(() if self.cfg == 1 else (UNCOND,)), *(() if self.cfg == 0 else (COND,)))
        if self.scale == 0:
            return plain
        return tuple(dict.fromkeys((*plain, self.better(sigma), self.worse(sigma))))

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: float, state: State) -> tuple[Tensor, State]:
        """The weighted sum."""
        found = dict(zip(self.queries(sigma), predictions, strict=True))
        x0 = found[UNCOND if self.cfg == 0 else COND]
        if self.cfg not in (0, 1):
            x0 = torch.lerp(found[UNCOND], x0, self.cfg)
        if self.scale != 0:
            x0 = x0 + self.scale * (found[self.better(sigma)] - found[self.worse(sigma)])
        return x0, None
