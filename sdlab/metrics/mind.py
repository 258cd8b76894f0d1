"""The Monge–Inception distance between two sets of features (MIND)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from sdlab.metrics.base import Result
from sdlab.metrics.features import Measure, OfFeatures, Statistics, units_within

DIRECTIONS = 1000
_MOST, _FEW = 256, 64  # units of the jackknife, for sets of at most `_SMALL` images and for larger ones
_SMALL = 512


class Mind(OfFeatures):
    """3 d times the mean over random directions of W₂² between the projections of d features on them.

    Along a line, optimal transport only sorts, so this is the sliced 2-Wasserstein distance (Berthet et al. 2026,
    arXiv:2605.06797). All cells have the same 1000 directions. W₂² is that between the two empirical laws, of any
    sizes, and torch-fidelity draws a subset of the larger set instead. It is biased upwards for few images, by about
    the same amount in all cells of a sweep.
    """

    name = "mind"
    label = "MIND (lab)"
    better = "lower"
    digits = 2
    per_image = False
    biased = True
    about = "sliced Wasserstein distance to real pictures, on the features of FID"

    def to(self, reference: Tensor | Statistics) -> Measure:
        """The distance, with jackknife replicates."""
        assert isinstance(reference, Tensor)
        real = Projections(reference)
        return lambda features, units: estimate(features, real, units)


class Projections:
    """A set of features (N, d), projected on random directions and sorted."""

    def __init__(self, features: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(DIRECTIONS, features.shape[1], generator=generator, dtype=torch.float64)
        self.directions = directions / directions.norm(dim=1, keepdim=True)
        self.factor = 3 * features.shape[1]
        ordered = (self.directions @ features.double().T).sort(dim=1).values  # (M, N)
        self.square = ordered.square().mean(1)  # (M,)
        self._sums = torch.nn.functional.pad(ordered.cumsum(1), (1, 0)) / len(features)

    def parts(self, n: int) -> Tensor:
        """The integrals of each quantile function over n equal parts of [0, 1], (M, n)."""
        size = self._sums.shape[1] - 1
        place = torch.arange(n + 1, dtype=torch.float64) * size / n
        low = place.long().clamp(max=size - 1)
        return torch.lerp(self._sums[:, low], self._sums[:, low + 1], place - low).diff(dim=1)


def estimate(features: Tensor, real: Projections, units: Sequence[int] = ()) -> Result:
    """The distance of features (n, d), with its jackknife over `units` (n,), by default the images.

    Without some images the others keep their order, so the projections are sorted once.
    """
    of_image = units_within(units, len(features), _MOST if len(features) <= _SMALL else _FEW)
    ordered, order = (real.directions @ features.double().T).sort(dim=1)
    of_place, parts, count = of_image[order], cache(real.parts), int(of_image.max()) + 1

    def without(some: Sequence[int]) -> float:
        kept = torch.ones(count, dtype=torch.bool)
        kept[list(some)] = False
        left = ordered[kept[of_place]].view(len(ordered), -1)
        costs = left.square().mean(1) + real.square - 2 * (left * parts(left.shape[1])).sum(1)
        return real.factor * float(costs.mean())

    return Result.jackknife(count, without)
