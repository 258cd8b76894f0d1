"""FID and KID between two sets of features, by torchmetrics, with bootstrap standard errors.

Heusel et al. 2017 (arXiv 1706.08500), Eq. 6; Bińkowski et al. 2018 (arXiv 1801.01401), section 4. FID is biased
upwards at small n, alike in all cells of a sweep: compare cells, not papers. KID is not biased.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

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


class Distances:
    """Distances of sets of features to one reference set, whose statistics are computed once."""

    def __init__(self, reference: Tensor, resamples: int = 30) -> None:
        """`reference` (N, d); `resamples` bootstrap draws for each standard error."""
        self.resamples = resamples
        self._fid = FrechetInceptionDistance(Given(reference.shape[1]), reset_real_features=False)
        self._fid.update(reference, real=True)
        self.reference = reference

    def fid(self, features: Tensor) -> Estimate:
        """Fréchet distance of `features` (n, d) to the reference."""
        draws = torch.tensor([self._fid_once(features[index]) for index in self._draws(len(features))])
        return Estimate(self._fid_once(features), float(draws.std()))

    def _fid_once(self, features: Tensor) -> float:
        self._fid.reset()
        self._fid.update(features, real=False)
        return float(self._fid.compute())

    def kid(self, features: Tensor) -> Estimate:
        """Squared maximum mean discrepancy of `features` (n, d) to the reference, cubic kernel; can be below 0."""
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
            metric.update(self.reference, real=True)
            metric.update(features, real=False)
            return float(metric.compute()[0])

    def _draws(self, n: int, without: bool = False) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        if without:
            return [torch.randperm(n, generator=generator)[: n // 2] for _ in range(self.resamples)]
        return [torch.randint(n, (n,), generator=generator) for _ in range(self.resamples)]
