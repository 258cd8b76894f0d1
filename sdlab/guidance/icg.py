"""Independent condition guidance."""

from __future__ import annotations

from dataclasses import dataclass

from sdlab.guidance.affine import Affine
from sdlab.guidance.base import COND, ContextNoise, Query
from sdlab.guidance.scale import check_scale


@dataclass(frozen=True)
class IndependentCondition(Affine):
    """Independent condition guidance: classifier-free guidance for models without an unconditional prediction.

    D(ỹ) + scale (D(c) − D(ỹ)), where ỹ is a context of Gaussian noise with the mean and the standard deviation of the
    prompt's context. The noise of an image follows from its seed and is fresh at every call. (Sadat et al. 2024,
    arXiv:2407.02687, sec. 4)

    Raises:
        ValueError: `scale` is below 0 or above 1000.
    """

    scale: float = 7.5

    def __post_init__(self) -> None:
        check_scale("IndependentCondition.scale", self.scale)

    def pair(self) -> tuple[Query, Query]:
        """The predictions for noise and for the prompt."""
        return Query(noise=ContextNoise(keep=0.0)), COND

    def weight(self, sigma: float) -> float:
        """The scale at every level."""
        return self.scale
