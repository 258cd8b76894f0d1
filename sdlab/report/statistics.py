"""Standard errors, confidence intervals and ties with the best cell.

Image i has the same prompt and the same noise in every cell. Two cells are therefore compared image by image. The
effect of an easy prompt is the same in both and cancels in the difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdlab.metrics import Metric
from sdlab.sweep.store import Row

_CONFIDENCE = 0.95
_QUANTILE = (1 + _CONFIDENCE) / 2


@dataclass(frozen=True)
class Standing:
    """The difference of a cell from the best one, with a 95 % confidence interval."""

    difference: float
    low: float
    high: float
    best: bool = False
    error: float = 0.0  # one standard error of the difference

    @property
    def ties(self) -> bool:
        """Whether the cell is not the best but cannot be distinguished from it."""
        return not self.best and self.low <= 0 <= self.high


def standings(metric: Metric, rows: Sequence[Row]) -> list[Standing | None]:
    """The standing of each row; None for rows without a value. Among equal best rows the first is the best."""
    values = [row.metrics.get(metric.name, math.nan) for row in rows]
    finite = [i for i, value in enumerate(values) if math.isfinite(value)]
    if not finite:
        return [None] * len(rows)
    best = (min if metric.better == "lower" else max)(finite, key=lambda i: values[i])
    found: list[Standing | None] = [None] * len(rows)
    for i in finite:
        found[i] = Standing(0.0, 0.0, 0.0, best=True) if i == best else difference(metric, rows[i], rows[best])
    return found


def difference(metric: Metric, row: Row, other: Row) -> Standing:
    """`row` − `other`, paired over the images if the metric is a mean over them.

    Paired differences get Student's interval of their mean. A metric of the whole set gets the normal interval of two
    independent values. That interval is too wide, because the two sets share their noise. It errs towards ties. Without
    standard errors only equal values tie.
    """
    from scipy.special import ndtri, stdtrit  # slow to import

    a, b = row.per_image.get(metric.name), other.per_image.get(metric.name)
    if a is not None and b is not None:
        paired = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
        mean, n = float(paired.mean()), len(paired)
        error = float(paired.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
        margin = float(stdtrit(n - 1, _QUANTILE)) * error if n > 1 else math.inf
    else:
        mean = row.metrics[metric.name] - other.metrics[metric.name]
        error = math.hypot(*(r.stderr.get(metric.name, 0.0) for r in (row, other)))
        margin = float(ndtri(_QUANTILE)) * error
    return Standing(mean, mean - margin, mean + margin, error=error)


def standard_error(metric: Metric, row: Row) -> float | None:
    """The standard error of the row's value: as stored, or from the mean over images, or None."""
    if metric.name in row.stderr:
        return row.stderr[metric.name]
    values = row.per_image.get(metric.name)
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if values is not None and len(values) > 1 else None
