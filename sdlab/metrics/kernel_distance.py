"""The squared maximum mean discrepancy of two sets of features, and what is left of it without some units."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor], Tensor]
"""From features (n, d) and (m, d) to the kernel of all pairs, (n, m)."""
_ROWS = 1024  # of the kernel matrix at once


def leaving_out(features: Tensor, real: Tensor, of_image: Tensor, kernel: Kernel) -> Callable[[Sequence[int]], float]:
    """The part of the unbiased estimate that depends on the features (n, d), without some units.

    That is E k(x, x′) − 2 E k(x, y) for real features y (N, d). The kernel is summed over pairs of units once. After
    that a unit is left out by summing fewer entries. `of_image` (n,) is the unit of each image.
    """
    x, y, units = features.double(), real.double(), int(of_image.max()) + 1
    pairs = torch.zeros(units, units).double()
    real_pairs, own = torch.zeros(2, units).double()
    sizes = torch.bincount(of_image, minlength=units)
    for rows, unit in zip(x.split(_ROWS), of_image.split(_ROWS), strict=True):
        by_unit = torch.zeros(len(rows), units).double().index_add_(1, of_image, kernel(rows, x))
        pairs.index_add_(0, unit, by_unit)
        real_pairs.index_add_(0, unit, kernel(rows, y).mean(1))
        own.index_add_(0, unit, kernel(rows, rows).diagonal())

    def without(some: Sequence[int]) -> float:
        kept = torch.ones(units, dtype=torch.bool)
        kept[list(some)] = False
        m = int(sizes[kept].sum())
        within = float(pairs[kept][:, kept].sum() - own[kept].sum())
        return within / (m * (m - 1)) - 2 * float(real_pairs[kept].sum()) / m

    return without


def within(features: Tensor, kernel: Kernel) -> float:
    """E k(x, x′) over all pairs of different rows of features (n, d)."""
    x, n = features.double(), len(features)
    total = 0.0
    for rows in x.split(_ROWS):
        total += float(kernel(rows, x).sum() - kernel(rows, rows).diagonal().sum())
    return total / (n * (n - 1))
