"""Precision: the share of pictures that could be real."""

from __future__ import annotations

import torch
from torch import Tensor

from sdlab.metrics.base import Result
from sdlab.metrics.features import Measure, Statistics
from sdlab.metrics.neighbours import OfNeighbours, Parts, inside

K = 3


class Precision(OfNeighbours):
    """The share of pictures that are in the ball of at least one real picture.

    A ball reaches to the third nearest real picture. Precision is high if every picture looks real, even if all of
    them are the same (Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 2).
    """

    name = "precision"
    label = "precision (lab)"
    share = True
    about = "share of pictures that are near real ones, on the features of FID"

    def to(self, reference: Tensor | Statistics) -> Measure:
        """The share of the pictures."""
        assert isinstance(reference, Tensor)
        real = Parts(reference, K)
        return lambda features, units: estimate(features, real)


def estimate(features: Tensor, real: Parts) -> Result:
    """The precision of features (n, d) among real ones (N, d). That of an image is the share of parts it is inside."""
    found = [inside(features, *one).any(1) for one in real.of(len(features))]
    return Result.mean(torch.stack(found).double().mean(0))
