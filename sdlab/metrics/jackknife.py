"""The jackknife of a statistic of a set of images.

It leaves out one *unit* at a time: an image, or all images of one prompt. Its replicates are linear in the statistic.
All cells leave out the same units, so the replicates of a difference are the differences of the replicates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

FEWEST = 4  # units, so that something is left without two of them


def replicates(whole: float, units: int, without: Callable[[Sequence[int]], float]) -> NDArray[np.float64]:
    """The pseudo-values and the interactions of the units, (2, U), of a statistic whose value is `whole`.

    `without(some)` is the statistic without these units. Let T₋ᵢ be the statistic without unit i. The pseudo-value of
    unit i is U T − (U − 1) T₋ᵢ. Its interaction with the next unit j is U T − (U − 1) (T₋ᵢ + T₋ⱼ) + (U − 2) T₋ᵢⱼ, which
    is 0 if the statistic is a mean. The mean of the pseudo-values is the statistic extrapolated to infinitely many
    units, up to terms of order 1/U².
    """
    one = np.array([without([i]) for i in range(units)])
    two = np.array([without([i, (i + 1) % units]) for i in range(units)])
    interactions = units * whole - (units - 1) * (one + np.roll(one, -1)) + (units - 2) * two
    return np.stack([units * whole - (units - 1) * one, interactions])


def standard_error(values: NDArray[np.floating]) -> float:
    """The standard error of a mean of values (1, U), or of a statistic with these replicates (2, U).

    Let Vₖ be the part of the variance that depends on k units at once. The jackknife's variance is J = Σ k Vₖ (Efron
    and Stein 1981, Annals of Statistics 9, 586). Half the variance of the interactions is S = Σ k (k − 1)/2 Vₖ. The
    estimate J²/(J + S) is exact for a mean, where S = 0. If all parts have the same order k, it is 2k/(k + 1) times the
    variance: 4/3 for k = 2, and never more than 2.
    """
    units = values.shape[1]
    jackknife = float(values[0].var(ddof=1)) / units
    interaction = float(values[1].var(ddof=1)) / 2 if len(values) > 1 else 0.0
    return jackknife / math.sqrt(jackknife + interaction) if jackknife > 0 else 0.0
