"""The squared maximum mean discrepancy of two sets of features, and what is left of it without some units."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor], Tensor]
"""From features (n, d) and (m, d) to the kernel of all pairs, (n, m)."""
_ROWS = 1024  # of the kernel matrix at once


class Compared:
    """The kernel between features x (n, d) and real ones y (N, d) in float64, in the sums that estimates need.

    Each of the two kernel matrices is computed once. `of_image` (n,) is the unit of each image.
    """

    def __init__(self, features: Tensor, real: Tensor, of_image: Tensor, kernel: Kernel) -> None:
        x, y, units = features.double(), real.double(), int(of_image.max()) + 1
        self._pairs = torch.zeros(units, units).double()
        self._real_pairs, self._own = torch.zeros(2, units).double()
        self._sizes = torch.bincount(of_image, minlength=units)
        self.of_real = torch.zeros(len(y)).double()  # the mean of k(xᵢ, y) over i, (N,)
        to_real = []
        for rows, unit in zip(x.split(_ROWS), of_image.split(_ROWS), strict=True):
            by_unit = torch.zeros(len(rows), units).double().index_add_(1, of_image, kernel(rows, x))
            across = kernel(rows, y)
            to_real.append(across.mean(1))
            self.of_real += across.sum(0) / len(x)
            self._pairs.index_add_(0, unit, by_unit)
            self._real_pairs.index_add_(0, unit, to_real[-1])
            self._own.index_add_(0, unit, kernel(rows, rows).diagonal())
        self.to_real = torch.cat(to_real)  # E k(xᵢ, y), (n,)
        self._within = self._pairs.sum() - self._own.sum()

    def without(self, some: Sequence[int]) -> float:
        """The part of the unbiased estimate that depends on x, without some units: E k(x, x′) − 2 E k(x, y)."""
        gone = list(some)
        m = len(self.to_real) - int(self._sizes[gone].sum())
        lost = 2 * self._pairs[gone].sum() - self._pairs[gone][:, gone].sum() - self._own[gone].sum()
        real = self.to_real.sum() - self._real_pairs[gone].sum()
        return float(self._within - lost) / (m * (m - 1)) - 2 * float(real) / m


def within(features: Tensor, kernel: Kernel) -> float:
    """E k(x, x′) over all pairs of different rows of features (n, d)."""
    x, n = features.double(), len(features)
    total = 0.0
    for rows in x.split(_ROWS):
        total += float(kernel(rows, x).sum() - kernel(rows, rows).diagonal().sum())
    return total / (n * (n - 1))
