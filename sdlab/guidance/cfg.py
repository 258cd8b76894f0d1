"""Classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass

from sdlab.guidance.affine import Affine
from sdlab.guidance.scale import check_scale


@dataclass(frozen=True)
class ClassifierFree(Affine):
    """Classifier-free guidance: D(∅) + scale (D(c) − D(∅)).

    Scale 1 is the plain conditional model and 0 the unconditional one. The w of the paper is scale − 1
    (Ho & Salimans 2022, arXiv:2207.12598, eq. 6).

    Raises:
        ValueError: `scale` is below 0 or above 1000.
    """

    scale: float = 7.5

    def __post_init__(self) -> None:
        check_scale("ClassifierFree.scale", self.scale)

    def weight(self, sigma: float) -> float:
        """The scale at every level."""
        return self.scale
