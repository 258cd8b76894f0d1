"""Means and covariances of features that arrive in parts, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """The number n of some vectors, their mean (d,), and their scatter Σ (x − mean)(x − mean)ᵀ (d, d), in float64.

    Moments of parts are added to those of the whole, in any order. Deviations from a mean are summed instead of
    squares, so that a large mean costs no digits (Chan, Golub and LeVeque 1983, doi:10.1080/00031305.1983.10483115).
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """The moments of features (n, d), n ≥ 1."""
        double = features.double()
        mean = double.mean(0)
        deviations = double - mean
        return cls(len(features), mean, deviations.T @ deviations)

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets together."""
        count, apart = self.count + other.count, other.mean - self.mean
        between = torch.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, self.mean + apart * (other.count / count), self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (d, d)."""
        return self.scatter / (self.count - 1)
