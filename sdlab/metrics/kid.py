"""The kernel distance between two sets of features (KID)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from sdlab.metrics.base import Complaint, Result, Subject
from sdlab.metrics.features import SetDistance, Statistics

_SUBSETS = 20  # for the mean of the estimate
_RESAMPLES = 30  # half-samples of the standard error


class Kid(SetDistance):
    """The squared maximum mean discrepancy for the kernel (xᵀy/d + 1)³ (Bińkowski et al. 2018, arXiv:1801.01401, §4).

    It is unbiased, so it can be negative.
    """

    name = "kid"
    label = "KID (lab)"
    digits = 4
    about = "kernel (MMD) distance to real pictures, on the same features"

    def check(self, subject: Subject) -> Iterator[Complaint]:
        """The kernel needs the real pictures themselves."""
        yield from super().check(subject)
        if subject.files.inception and Path(subject.files.reference or "").suffix == ".npz":
            yield (
                "metrics",
                "needs a folder of real pictures, but metric_files.reference has only statistics",
            )

    def to(self, reference: Tensor | Statistics) -> Callable[[Tensor], Result]:
        """The distance, with a standard error by half-samples."""
        assert isinstance(reference, Tensor)
        return lambda features: estimate(features, reference)


def estimate(features: Tensor, real: Tensor) -> Result:
    """The distance of features (n, d) to real ones (N, d), and its spread over random halves of them.

    Half-samples without replacement have the spread of the full sample. A bootstrap would count pairs of equal
    pictures.
    """
    n, generator = len(features), torch.Generator().manual_seed(0)
    # One half at a time, because together they are many times the features.
    halves = (features[torch.randperm(n, generator=generator)[: n // 2]] for _ in range(_RESAMPLES))
    spread = torch.tensor([distance(half, real) for half in halves]).std()
    return Result(distance(features, real), float(spread))


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
