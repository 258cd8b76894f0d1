"""The kernel distance between two sets of features (KID)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

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
        real = Subsets(reference)
        return lambda features, units: estimate(features, real, units)


class Subsets:
    """Real features (N, d), and random subsets of them that are compared with sets of so many images."""

    def __init__(self, features: Tensor) -> None:
        self.features = features
        self.of = cache(self._of)

    def _of(self, images: int) -> tuple[list[Tensor], list[Tensor], float]:
        """The indices of subsets of both sets, each as large as the smaller set, and E k(y, y′) over the real ones.

        They are the same for all cells with so many images, so the kernel among real features is computed once.
        """
        n, size = len(self.features), min(images, len(self.features))
        generator, real, made = torch.Generator().manual_seed(0), list[Tensor](), list[Tensor]()
        for _ in range(_SUBSETS):
            real.append(torch.randperm(n, generator=generator)[:size])
            made.append(torch.randperm(images, generator=generator)[:size])
        return real, made, _among(self.features, real)


def estimate(features: Tensor, real: Subsets, units: Sequence[int] = ()) -> Result:
    """The distance of features (n, d) to real ones (N, d): the mean of the estimate over random subsets of both sets.

    Its jackknife is over `units` (n,), by default the images. The replicates are those of the estimate from all pairs
    of images and real pictures.
    """
    of_image = units_within(units, len(features), _MOST_UNITS)
    compared = kernel_distance.Compared(features, real.features, of_image, _kernel)
    some, made, among_real = real.of(len(features))
    whole = compared.without([])
    if len(features) <= len(real.features):  # all images are in each subset
        among = whole + 2 * float(compared.to_real.mean())
        across = torch.stack([compared.of_real[one].mean() for one in some]).mean()
    else:
        among = _among(features, made)
        across = torch.stack([compared.to_real[one].mean() for one in made]).mean()
    value = among + among_real - 2 * float(across)
    found = jackknife.replicates(whole, int(of_image.max()) + 1, compared.without)
    found[0] += value - whole  # the kernel within the real pictures, and the draw of subsets
    return Result(value, jackknife.standard_error(found), replicates=torch.from_numpy(found))


def _among(features: Tensor, subsets: Sequence[Tensor]) -> float:
    """E k(x, x′) over pairs of different features, the mean over subsets. Those that are the whole set are equal."""
    different = subsets if len(subsets[0]) < len(features) else subsets[:1]
    return sum(kernel_distance.within(features[one], _kernel) for one in different) / len(different)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
