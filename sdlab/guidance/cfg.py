"""Classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from samplers.checks import within
from sdlab.denoiser import Model
from sdlab.guidance import blend


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance: D(∅) + scale (D(c) − D(∅)); 1 is the plain conditional model, 0 the unconditional.

    Ho & Salimans 2022 (arXiv 2207.12598), equation 6, whose w is `scale` − 1. Scales below 0 are a ValueError.
    """

    scale: float = 7.5

    def __post_init__(self) -> None:
        within("ClassifierFree.scale", self.scale, 0)

    def weight(self, sigma: float) -> float:
        """The scale, at every level."""
        return self.scale

    def __call__(self, model: Model, cond: Tensor, uncond: Tensor) -> blend.Blend:
        """The guided denoiser; at scales 0 and 1 it makes no second prediction."""
        return blend.Blend(model, cond, uncond, self.weight)

    def passes(self, sigma: float) -> int:
        """One at scales 0 and 1, else two."""
        return blend.passes(self.weight(sigma))
