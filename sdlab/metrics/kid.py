"""The kernel distance between two sets of features (KID)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdlab.metrics import jackknife, kernel_distance
from sdlab.metrics.base import Result
from sdlab.metrics.features import Measure, OfFeatures, Statistics, units_within

_SUBSETS = 20  # for the mean of the estimate
_MOST_UNITS = 256  # of the jackknife


class Kid(OfFeatures):
    """The squared maximum mean discrepancy for the kernel (xᵀy/d + 1)³ (Bińkowski et al. 2018, arXiv:1801.01401, §4).

    It is unbiased, so it can be negative.
    """

    name = "kid"
    label = "KID (lab)"
    better = "lower"
    digits = 4
    per_image = False
    about = "kernel (MMD) distance to real pictures, on the same features"

    def to(self, reference: Tensor | Statistics) -> Measure:
        """The distance, with jackknife replicates."""
        assert isinstance(reference, Tensor)
        return lambda features, units: estimate(features, reference, units)


def estimate(features: Tensor, real: Tensor, units: Sequence[int] = ()) -> Result:
    """The distance of features (n, d) to real ones (N, d).

    Its jackknife is over `units` (n,), by default the images. The replicates are those of the estimate from all pairs
    of images and real pictures.
    """
    of_image = units_within(units, len(features), _MOST_UNITS)
    without = kernel_distance.leaving_out(features, real, of_image, _kernel)
    value, whole = distance(features, real), without([])
    found = jackknife.replicates(whole, int(of_image.max()) + 1, without)
    found[0] += value - whole  # the kernel within the real pictures, and the draw of subsets
    return Result(value, jackknife.standard_error(found), replicates=torch.from_numpy(found))


def distance(features: Tensor, real: Tensor) -> float:
    """The mean of the estimate over random subsets of both sets, each as large as the smaller set."""
    size, generator = min(len(features), len(real)), torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(_SUBSETS):
        one = real[torch.randperm(len(real), generator=generator)[:size]]
        other = features[torch.randperm(len(features), generator=generator)[:size]]
        estimates.append(_discrepancy(one, other))
    return float(torch.stack(estimates).mean())


def _discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate for two sets of m features: E k(x, x′) + E k(y, y′) − 2 E k(x, y)."""
    m = len(x)
    within = _off_diagonal(_kernel(x, x)) + _off_diagonal(_kernel(y, y))
    return within / (m * (m - 1)) - 2 * _kernel(x, y).sum(0).sum() / m**2


def _off_diagonal(kernel: Tensor) -> Tensor:
    return (kernel.sum(1) - kernel.diagonal()).sum()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
