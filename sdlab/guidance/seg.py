"""Smoothed energy guidance."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from torch import Tensor

from samplers.checks import within
from sdlab.guidance.base import Query
from sdlab.guidance.blur import blurred
from sdlab.guidance.contrast import Contrast
from sdlab.model.perturbation import Perturbation, Point
from sdlab.model.place import Place


@dataclass(frozen=True)
class BlurredQueries(Perturbation):
    """Self-attention with queries blurred over the feature map by a Gaussian of standard deviation `blur`, in tokens.

    The map is reflected at its borders. An infinite blur replaces all queries by their mean.
    """

    point: ClassVar[Point] = "query"
    blur: float = inf

    def change(self, state: Tensor, other: Tensor, place: Place) -> Tensor:
        """The blurred queries."""
        return blurred(state.mT.unflatten(2, place.size), self.blur).flatten(2).mT


@dataclass(frozen=True)
class SmoothedEnergy(Contrast):
    """Smoothed energy guidance: away from the prediction with blurred attention queries, D(c) + scale (D(c) − D′(c)).

    The queries of self-attention in the transformers `layers` are blurred by a Gaussian whose standard deviation is
    `blur` tokens. Infinity, the default, replaces them by their mean, and 0 changes nothing. `cfg` adds classifier-free
    guidance, and 1 is without (Hong 2024, arXiv:2408.00760, sec. 4).

    Raises:
        ValueError: `scale`, `cfg` or `blur` is below 0, or `layers` is empty.
    """

    blur: float = inf
    layers: tuple[str, ...] = ("auto",)

    def __post_init__(self) -> None:
        if self.blur != inf:
            within("SmoothedEnergy.blur", self.blur, 0)
        super().__post_init__()

    def worse(self, sigma: float) -> Query:
        """The conditional prediction with blurred queries."""
        return Query("cond", BlurredQueries(self.layers, self.blur))
