"""Coverage: the share of real pictures with a picture nearby."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdlab.metrics.base import Result
from sdlab.metrics.features import Measure, Statistics, units_within
from sdlab.metrics.neighbours import OfNeighbours, Parts, inside

K = 5
_MOST_UNITS = 256  # of the jackknife


class Coverage(OfNeighbours):
    """The share of real pictures whose ball holds a picture (Naeem et al. 2020, arXiv:2002.09797, sec. 3).

    A ball reaches to the fifth nearest real picture. Coverage of as many other real pictures is about 1 − 1/2⁵ = 0.97.
    It is low if kinds of real pictures are missing. The balls are those of real pictures, so an outlier does not raise
    it, as it raises recall.
    """

    name = "coverage"
    label = "coverage (lab)"
    per_image = False
    about = "share of real pictures that have a picture nearby; low if kinds of pictures are missing"

    def to(self, reference: Tensor | Statistics) -> Measure:
        """The share of the real pictures, with jackknife replicates."""
        assert isinstance(reference, Tensor)
        real = Parts(reference, K)
        return lambda features, units: estimate(features, real, units)


def estimate(features: Tensor, real: Parts, units: Sequence[int] = ()) -> Result:
    """The coverage of real features (N, d) by features (n, d), with its jackknife.

    It is over `units` (n,), by default the images.
    """
    of_image = units_within(units, len(features), _MOST_UNITS)
    count = int(of_image.max()) + 1
    found = [inside(features, *one).int() for one in real.of(len(features))]
    by_unit = torch.cat([torch.zeros(count, one.shape[1]).int().index_add_(0, of_image, one) for one in found], dim=1)
    total = by_unit.sum(0)

    def without(some: Sequence[int]) -> float:
        return float((total > by_unit[list(some)].sum(0)).double().mean())

    return Result.jackknife(count, without)
