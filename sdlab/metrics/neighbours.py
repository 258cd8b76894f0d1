"""Nearest neighbours of features: the shared parts of precision, recall, density and coverage.

The ball of a picture reaches from its features to those of the k-th nearest other picture of its set. The balls
together stand for the support of the set.
"""

from __future__ import annotations

from collections.abc import Iterator

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


def parts(real: Tensor, images: int) -> Iterator[Tensor]:
    """The features (N, d) of the real pictures in random parts (m, d), with m = `images` or N if that is less."""
    size = min(images, len(real))
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    yield from real.double()[order[: len(real) // size * size]].split(size)


def radii(features: Tensor, k: int) -> Tensor:
    """The distance of each row of features (n, d) to the k-th nearest other row, or to the farthest of fewer, (n,)."""
    rank = min(k + 1, len(features))  # the nearest is the row itself
    return torch.cat([torch.cdist(rows, features).kthvalue(rank).values for rows in features.split(_ROWS)])


def inside(features: Tensor, part: Tensor, k: int) -> Tensor:
    """Which rows of features (n, d) are in the ball of which row of `part` (m, d), (n, m) of bool."""
    reach, x = radii(part, k), features.double()
    return torch.cat([torch.cdist(rows, part) <= reach for rows in x.split(_ROWS)])
