"""Density: how densely the pictures lie among real ones."""

from __future__ import annotations

import torch
from torch import Tensor

from sdlab.metrics.base import Result
from sdlab.metrics.features import Measure, Statistics
from sdlab.metrics.neighbours import OfNeighbours, Parts, inside

K = 5


class Density(OfNeighbours):
    """The mean number of real pictures in whose balls a picture is, over k.

    A ball reaches to the fifth nearest real picture, k = 5. A real outlier with its large ball counts less than in
    precision. The density of other real pictures is about 1. It is above 1 if the pictures crowd where real ones are
    dense (Naeem et al. 2020, arXiv:2002.09797, sec. 3).
    """

    name = "density"
    label = "density (lab)"
    about = "mean number of real pictures near a picture, over the number near a real one"

    def to(self, reference: Tensor | Statistics) -> Measure:
        """The mean over the pictures."""
        assert isinstance(reference, Tensor)
        real = Parts(reference, K)
        return lambda features, units: estimate(features, real)


def estimate(features: Tensor, real: Parts) -> Result:
    """The density of features (n, d) among real ones (N, d), per image."""
    counts = [inside(features, *one).double().sum(1) / K for one in real.of(len(features))]
    return Result.mean(torch.stack(counts).mean(0))
