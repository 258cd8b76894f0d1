"""The noise levels of error paths on a logarithmic axis, on which 0 has a place of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Levels = NDArray[np.floating]


def place_of_zero(levels: Sequence[Levels]) -> float:
    """Where σ = 0 is drawn: below all other levels by a tenth of their range, in log σ."""
    low, high = _range(levels)
    return low / max(2.0, (high / low) ** 0.1)


def level_ticks(levels: Sequence[Levels]) -> list[float]:
    """Powers of ten and three times these inside the levels, and the place of 0 if one of them is 0."""
    low, high = _range(levels)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    known = [digit * 10.0**exponent for exponent in exponents for digit in (1, 3)]
    zero = [place_of_zero(levels)] if any((one == 0).any() for one in levels) else []
    return [*zero, *(one for one in known if low <= one <= high)]


def _range(levels: Sequence[Levels]) -> tuple[float, float]:
    known = [float(level) for one in levels for level in one if level > 0]
    return min(known, default=1.0), max(known, default=1.0)
