"""Recall: the share of real pictures that the model could make."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdlab.metrics.base import Result
from sdlab.metrics.features import Measure, Statistics, units_within
from sdlab.metrics.neighbours import OfNeighbours

K = 3
_MOST_UNITS = 256  # of the jackknife


class Recall(OfNeighbours):
    """The share of real pictures that are in the ball of at least one picture of the cell.

    A ball reaches to the third nearest picture of the cell. Recall is low if the pictures are alike or kinds of real
    pictures are missing. It says nothing about whether each picture looks real, and outliers raise it
    (Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 2).
    """

    name = "recall"
    label = "recall (lab)"
    per_image = False
    about = "share of real pictures that are near the cell's pictures, on the features of FID; low for little diversity"

    def to(self, reference: Tensor | Statistics) -> Measure:
        """The share of the real pictures, with jackknife replicates."""
        assert isinstance(reference, Tensor)
        return lambda features, units: estimate(features, reference, units)


def estimate(features: Tensor, real: Tensor, units: Sequence[int] = ()) -> Result:
    """The recall of real features (N, d) by features (n, d), with its jackknife over `units` (n,).

    Without a picture its ball is gone, and the balls of its neighbours are larger.
    """
    x, of_image = features.double(), units_within(units, len(features), _MOST_UNITS)
    apart = torch.cdist(real.double(), x)
    sizes = of_image.bincount()
    near = torch.cdist(x, x).topk(min(len(x), 1 + K + 2 * int(sizes.max())), largest=False)  # each with itself

    def without(some: Sequence[int]) -> float:
        kept = ~torch.isin(of_image, torch.tensor(some, dtype=torch.long))
        places = (kept[near.indices].cumsum(1) <= K).sum(1)  # of the K-th other one that is left
        reach = near.values.gather(1, places.clamp(max=near.values.shape[1] - 1)[:, None])[:, 0]
        return float((apart <= torch.where(kept, reach, -1)).any(1).double().mean())

    return Result.jackknife(len(sizes), without)
