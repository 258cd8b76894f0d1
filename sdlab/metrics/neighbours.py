"""Nearest neighbours of features: the shared parts of precision, recall, density and coverage.

The ball of a picture reaches from its features to those of the k-th nearest other picture of its set. The balls
together stand for the support of the set.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from sdlab.metrics.features import OfFeatures

_ROWS = 1024  # of a matrix of distances at once


class OfNeighbours(OfFeatures):
    """A metric that asks which features are in which balls.

    The papers compare sets of one size. Here the real pictures are split into random parts as large as the cell, and
    the value is the mean over the parts, so that no real picture is lost.
    """

    better = "higher"
    digits = 3
    biased = True
    fewest = 6  # images, so that a ball reaches to the fifth other one


def radii(features: Tensor, k: int) -> Tensor:
    """The distance of each row of features (n, d) to the k-th nearest other row, or to the farthest of fewer, (n,)."""
    rank = min(k + 1, len(features))  # the nearest is the row itself
    return torch.cat([torch.cdist(rows, features).kthvalue(rank).values for rows in features.split(_ROWS)])


class Parts:
    """The features (N, d) of the real pictures, to be split into random parts as large as a cell."""

    def __init__(self, real: Tensor, k: int) -> None:
        """`k` is that of the balls."""
        self._real, self._k = real, k
        self.of = cache(self._of)

    def _of(self, images: int) -> list[tuple[Tensor, Tensor]]:
        """Parts (m, d), with m = `images` or N if that is less, and the radii of their balls (m,).

        They are the same for all cells with so many images, so they are computed once.
        """
        size = min(images, len(self._real))
        order = torch.randperm(len(self._real), generator=torch.Generator().manual_seed(0))
        found = self._real.double()[order[: len(order) // size * size]].split(size)
        return [(part, radii(part, self._k)) for part in found]


def inside(features: Tensor, part: Tensor, reach: Tensor) -> Tensor:
    """Which rows of features (n, d) are in the balls (m,) of which rows of `part` (m, d), (n, m) of bool."""
    return torch.cat([torch.cdist(rows, part) <= reach for rows in features.double().split(_ROWS)])
