"""Comparisons of many cells at once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_DRAWS = 2000
_BLOCK = 2**20  # numbers in memory at once


def critical_value(values: NDArray[np.floating], confidence: float, draws: int = _DRAWS) -> float:
    """The quantile of the largest |t| over all pairs of K cells with equal means, from values per unit, (K, U).

    t is the paired t of two cells. Its distribution comes from random signs: each draw multiplies the deviations of
    every unit by 1 or −1, the same in all cells, which keeps the correlation of the cells and the shape of the values.
    Cells whose |t| is larger are distinguishable, with this confidence for all pairs together.
    """
    deviations = values - values.mean(axis=1, keepdims=True)
    cells, units = values.shape
    first, second = np.triu_indices(cells, 1)
    squares = np.concatenate([np.square(deviations[i + 1 :] - deviations[i]).mean(axis=1) for i in range(cells)])
    varies = squares > 0
    first, second, squares = first[varies], second[varies], squares[varies]
    if not len(first):
        return math.inf
    generator, largest = np.random.default_rng(0), list[NDArray[np.floating]]()
    block = max(1, _BLOCK // len(first))
    for start in range(0, draws, block):
        signs = 2.0 * generator.integers(0, 2, (min(block, draws - start), units), dtype=np.int8) - 1
        means = signs @ deviations.T / units
        largest.append((np.square(means[:, first] - means[:, second]) / squares).max(axis=1))
    share = min(float(np.quantile(np.concatenate(largest), confidence)), 1.0)  # of the square that is the mean's
    return math.sqrt((units - 1) * share / (1 - share)) if share < 1 else math.inf
