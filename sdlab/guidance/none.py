"""No guidance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sdlab.denoiser import Model
from sdlab.guidance.blend import Blend


@dataclass(frozen=True)
class Unguided:
    """The plain conditional model, one pass a call."""

    def weight(self, sigma: float) -> float:
        """1 at every level."""
        return 1.0

    def __call__(self, model: Model, cond: Tensor, uncond: Tensor) -> Blend:
        """D(x; σ, c)."""
        return Blend(model, cond, uncond, self.weight)

    def passes(self, sigma: float) -> int:
        """One."""
        return 1
