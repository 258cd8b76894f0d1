"""Smoothed energy guidance."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import ClassVar

import torch
from torch import Tensor

from samplers.checks import within
from sdlab.guidance.base import Query
from sdlab.guidance.contrast import Contrast
from sdlab.model.perturbation import Perturbation, Place, Point


@dataclass(frozen=True)
class BlurredQueries(Perturbation):
    """Self-attention with queries blurred over the feature map by a Gaussian of standard deviation `blur`, in tokens.

    The map is reflected at its borders. An infinite blur replaces all queries by their mean.
    """

    point: ClassVar[Point] = "query"
    blur: float = inf

    def change(self, state: Tensor, other: Tensor, place: Place) -> Tensor:
        """The blurred queries."""
        height, width = place.size
        down, across = (gaussian_blur(side, self.blur).to(state) for side in (height, width))
        blurred = torch.einsum("ih, jw, nhwc -> nijc", down, across, state.unflatten(1, (height, width)))
        return blurred.flatten(1, 2)


def gaussian_blur(side: int, std: float) -> Tensor:
    """The matrix (side, side) that blurs a line of values by a Gaussian, in float64. Its rows sum to 1."""
    if std > 3 * side:  # all weights are then equal in float64
        return torch.full((side, side), 1 / side, dtype=torch.float64)
    reach = ceil(8 * std)
    offsets = torch.arange(-reach, reach + 1)
    weights = (-0.5 * (offsets / std).square().double()).exp() if std > 0 else torch.ones(1, dtype=torch.float64)
    sources = (torch.arange(side)[:, None] + offsets) % (2 * side)
    sources = torch.minimum(sources, 2 * side - 1 - sources)  # the reflected line repeats every 2 · side
    return torch.zeros(side, side, dtype=torch.float64).scatter_add(
        1, sources, (weights / weights.sum()).expand(side, -1)
    )


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
