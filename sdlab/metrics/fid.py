"""The Fréchet distance between two sets of features (FID)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdlab.metrics.base import Result
from sdlab.metrics.features import SetDistance, Statistics

_RESAMPLES = 30  # bootstrap draws of the standard error


class Fid(SetDistance):
    """‖m − mᵣ‖² + tr(C + Cᵣ − 2 (C Cᵣ)^½), of means m and covariances C (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    It is biased upwards for few images, by the same amount in all cells of a sweep. Compare cells with each other, not
    with papers.
    """

    name = "fid"
    label = "FID (lab)"
    digits = 2
    about = "Fréchet distance to real pictures, on features of the lab evaluator, or of Inception from [metric_files]"

    def to(self, reference: Tensor | Statistics) -> Callable[[Tensor], Result]:
        """The distance, with a bootstrap standard error."""
        real = Statistics.of(reference) if isinstance(reference, Tensor) else reference
        return lambda features: estimate(features, real)


def estimate(features: Tensor, real: Statistics) -> Result:
    """The distance of features (n, d), and its spread over bootstrap samples of size n."""
    n, generator = len(features), torch.Generator().manual_seed(0)
    # One draw at a time: together they are thirty times the features.
    draws = (features[torch.randint(n, (n,), generator=generator)] for _ in range(_RESAMPLES))
    spread = torch.tensor([distance(draw, real) for draw in draws]).std()
    return Result(distance(features, real), float(spread))


def distance(features: Tensor, real: Statistics) -> float:
    """The Fréchet distance from features (n, d) to these statistics.

    With C = Xᵀ X and Cᵣ = R Rᵀ, the trace of (C Cᵣ)^½ is the sum of the singular values of X R. They are the roots of
    the eigenvalues of the smaller of its two Gram matrices.
    """
    own = features.double()
    mean = own.mean(0)
    x = (own - mean) / (len(own) - 1) ** 0.5
    product = x @ real.root
    gram = product @ product.T if len(own) < len(mean) else product.T @ product
    shared = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum()
    return float((mean - real.mean).square().sum() + x.square().sum() + real.covariance.trace() - 2 * shared)
