"""Classifier-free guidance with a limited norm per pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdlab.guidance.base import Level
from sdlab.guidance.blend import Blend
from sdlab.guidance.space import Space
from sdlab.guidance.vectors import ratio


@dataclass(frozen=True)
class LimitedNorm(Blend):
    """Classifier-free guidance that never raises the norm of a pixel above that of the conditional prediction.

    With g the guided and c the conditional prediction, and norms over the channels of each pixel:
        g min(1, |c|/|g|)

    This is ComfyUI's CFGNorm. (Comfy-Org/ComfyUI)

    Raises:
        ValueError: `scale` is below 0 or above 1000, or `space` is unknown.
    """

    scale: float = 7.5
    space: Space = "x0"

    def blend(self, cond: Tensor, uncond: Tensor, sigma: Level) -> Tensor:
        """The guided prediction."""
        guided = self.plain(cond, uncond)
        norms = (torch.linalg.vector_norm(one, dim=1, keepdim=True) for one in (cond, guided))
        return guided * ratio(*norms).clamp(max=1)
