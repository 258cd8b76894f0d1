"""The Fréchet distance between two sets of features (FID)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdlab.metrics.base import Result
from sdlab.metrics.features import Measure, OfFeatures, Statistics, features_of, units_within
from sdlab.metrics.files import MetricFiles
from sdlab.metrics.root_trace import RootTrace

_MANY, _FEW = 256, 64  # units of the jackknife: many if an eigenproblem has at most `_MANY` rows


class Fid(OfFeatures):
    """‖m − mᵣ‖² + tr(C + Cᵣ − 2 (C Cᵣ)^½), of means m and covariances C (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    It is biased upwards for few images, by about the same amount in all cells of a sweep. Compare cells with each
    other, not with papers.
    """

    name = "fid"
    label = "FID (lab)"
    better = "lower"
    digits = 2
    per_image = False
    biased = True
    extrapolates = True
    statistics_suffice = True
    about = "Fréchet distance to real pictures, on features of the lab evaluator, or of Inception from [metric_files]"

    def caution(self, files: MetricFiles, images: int) -> str:
        """The bias for few images."""
        width = features_of(files)
        if images >= 2 * width:
            return ""
        return (
            f"{images} images are few for {width} features, so it is biased upwards; compare equal numbers of images."
        )

    def to(self, reference: Tensor | Statistics) -> Measure:
        """The distance, with jackknife replicates."""
        real = Statistics.of(reference) if isinstance(reference, Tensor) else reference
        return lambda features, units: estimate(features, real, units)


def estimate(features: Tensor, real: Statistics, units: Sequence[int] = ()) -> Result:
    """The distance of features (n, d), with its jackknife over `units` (n,), by default the images."""
    few = min(features.shape) > _MANY
    of_image = units_within(units, len(features), _FEW if few else _MANY)
    without = _leaving_out(features, real)

    def less(some: Sequence[int]) -> float:
        return without(torch.isin(of_image, torch.tensor(some, dtype=torch.long)))

    return Result.jackknife(int(of_image.max()) + 1, less)


def distance(features: Tensor, real: Statistics) -> float:
    """The Fréchet distance from features (n, d) to these statistics."""
    return _leaving_out(features, real)(torch.zeros(len(features), dtype=torch.bool))


def _leaving_out(features: Tensor, real: Statistics) -> Callable[[Tensor], float]:
    """The Fréchet distance without some rows of features (n, d), which a mask (n,) marks.

    With C = Xᵀ X and Cᵣ = R Rᵀ, the trace of (C Cᵣ)^½ is that of (RᵀC R)^½, the scatter of the rows of X R.
    """
    own = features.double()
    mean = own.mean(0)
    x = own - mean
    n = len(x)
    trace, lengths = RootTrace(x @ real.root), x.square().sum(1)

    def without(gone: Tensor) -> float:
        left, moved = n - int(gone.sum()), x[gone].sum(0)  # the sum of the others is −`moved`
        scatter = float(lengths[~gone].sum() - moved.square().sum() / left)
        apart = float((mean - moved / left - real.mean).square().sum())
        shared = trace.without(gone)
        return apart + scatter / (left - 1) + float(real.covariance.trace()) - 2 * shared / (left - 1) ** 0.5

    return without
