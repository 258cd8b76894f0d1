"""The order of convergence: the slope of a fitted line, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FLOOR = 1e-11  # smaller errors come from the reference and float64


@dataclass(frozen=True)
class Fit:
    """log error = −order · log steps + constant, by least squares over the finest grids.

    `order` and its standard error `spread` are nan if fewer than two errors are above rounding error.
    """

    steps: tuple[int, ...]
    errors: tuple[float, ...]
    order: float
    spread: float

    @property
    def exact(self) -> bool:
        """Whether all errors are at rounding level."""
        return max(self.errors) < FLOOR

    @property
    def text(self) -> str:
        """`"2.01 ± 0.02"`, or `"exact"`."""
        if self.exact:
            return "exact"
        return "–" if math.isnan(self.order) else f"{self.order:.2f} ± {self.spread:.2f}"


def fit(steps: Sequence[int], errors: Sequence[float]) -> Fit:
    """The line through the last three points above the rounding error."""
    pairs = zip(steps, errors, strict=True)
    points = [(math.log(n), math.log(e)) for n, e in pairs if e > FLOOR and math.isfinite(e)]
    x, y = np.array(points[-3:]).reshape(-1, 2).T
    if len(x) < 2:
        return Fit(tuple(steps), tuple(errors), math.nan, math.nan)
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - slope * centred
    spread = math.sqrt(float(rest @ rest) / max(len(x) - 2, 1) / float(centred @ centred))
    return Fit(tuple(steps), tuple(errors), -slope, spread)
