"""FID and KID between two sets of features, by torchmetrics, with bootstrap standard errors.

Heusel et al. 2017 (arXiv 1706.08500), Eq. 6; Bińkowski et al. 2018 (arXiv 1801.01401), section 4. FID is biased
upwards at small n, alike in all cells of a sweep: compare cells, not papers. KID is not biased.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from sdlab.metrics.features import Given


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    stderr: float


@dataclass(frozen=True)
class Statistics:
    """What FID knows of a set of features: float64."""

    mean: Tensor  # (d,)
    covariance: Tensor  # (d, d)

    @classmethod
    def of(cls, features: Tensor) -> Statistics:
        """Of a set (N, d)."""
        return cls(features.double().mean(0), torch.cov(features.double().T))


class Distances:
    """Distances of sets of features to one reference set, whose statistics are computed once."""

    def __init__(self, reference: Tensor | Statistics, resamples: int = 30) -> None:
        """`reference` (N, d), or its statistics, with which there is no KID; `resamples` bootstrap draws an error."""
        self.resamples = resamples
        self.reference = reference if isinstance(reference, Tensor) else None
        self._statistics = Statistics.of(reference) if isinstance(reference, Tensor) else reference
        self._fid = FrechetInceptionDistance(Given(len(self._statistics.mean)), reset_real_features=False)
        if isinstance(reference, Tensor):
            self._fid.update(reference, real=True)
        else:  # two pictures of this mean and covariance are as good to torchmetrics as all of them
            mean, covariance = reference.mean, reference.covariance
            self._fid.real_features_sum = 2 * mean
            self._fid.real_features_cov_sum = covariance + 2 * torch.outer(mean, mean)
            self._fid.real_features_num_samples = torch.tensor(2)

    def fid(self, features: Tensor) -> Estimate:
        """Fréchet distance of `features` (n, d) to the reference."""
        once = self._fid_of_few if len(features) < features.shape[1] else self._fid_once
        draws = torch.tensor([once(features[index]) for index in self._draws(len(features))])
        return Estimate(self._fid_once(features), float(draws.std()))

    def _fid_once(self, features: Tensor) -> float:
        self._fid.reset()
        self._fid.update(features, real=False)
        return float(self._fid.compute())

    def _fid_of_few(self, features: Tensor) -> float:
        """The same for n < d, from the eigenvalues of an (n, n) matrix in place of a (d, d) one.

        With XᵀX the covariance of the features, those of Σ XᵀX that are not 0 are those of X Σ Xᵀ.
        """
        own, real = features.double(), self._statistics
        x = (own - own.mean(0)) / (len(own) - 1) ** 0.5
        shared = torch.linalg.eigvalsh(x @ real.covariance @ x.T).clamp(min=0).sqrt().sum()
        apart = (own.mean(0) - real.mean).square().sum()
        return float(apart + x.square().sum() + real.covariance.trace() - 2 * shared)

    def kid(self, features: Tensor) -> Estimate:
        """Squared maximum mean discrepancy of `features` (n, d) to the reference, cubic kernel; can be below 0.

        Raises:
            ValueError: nothing but statistics is known of the reference.
        """
        if self.reference is None:
            raise ValueError("KID needs the reference's features, not their statistics")
        subset = min(len(features), len(self.reference))
        value = self._kid_once(features, subset)
        draws = [self._kid_once(features[index], subset) for index in self._draws(len(features), without=True)]
        # Half-samples without replacement spread like the whole; a bootstrap would count pairs of equal pictures.
        return Estimate(value, float(torch.tensor(draws).std()))

    def _kid_once(self, features: Tensor, subset: int) -> float:
        size = min(subset, len(features))
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # that it keeps the features in memory
            torch.manual_seed(0)  # torchmetrics draws its subsets from the global stream
            metric = KernelInceptionDistance(Given(features.shape[1]), subsets=20, subset_size=size)
            metric.update(cast(Tensor, self.reference), real=True)
            metric.update(features, real=False)
            return float(metric.compute()[0])

    def _draws(self, n: int, without: bool = False) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        if without:
            return [torch.randperm(n, generator=generator)[: n // 2] for _ in range(self.resamples)]
        return [torch.randint(n, (n,), generator=generator) for _ in range(self.resamples)]
