"""Standard errors, confidence intervals and ties with the best cell.

Image i has the same prompt and the same noise in every cell. Two cells are therefore compared image by image. The
effect of an easy prompt is the same in both and cancels in the difference.

Images of one prompt are alike, so prompts that are repeated are the units of all errors: an interval holds for other
prompts too. `units` is the unit of each image (`Plan.units`), by default the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdlab.metrics import Metric, jackknife
from sdlab.report.simultaneous import critical_value
from sdlab.sweep.store import Row

_CONFIDENCE = 0.95
_QUANTILE = (1 + _CONFIDENCE) / 2


@dataclass(frozen=True)
class Standing:
    """The difference of a cell from another, with a confidence interval."""

    difference: float
    low: float
    high: float
    best: bool = False
    error: float = 0.0  # one standard error of the difference
    p: float = 1.0  # of a difference at least as large if there is none

    @property
    def ties(self) -> bool:
        """Whether the cell is not the best but cannot be distinguished from it."""
        return not self.best and self.low <= 0 <= self.high


def standings(metric: Metric, rows: Sequence[Row], units: Sequence[int] = ()) -> list[Standing | None]:
    """The difference of each row from the best; None for rows without a value. Among equal best rows it is the first.

    The 95 % intervals hold for all pairs of rows at once, and so for the row that happens to be the best.
    """
    values = [row.metrics.get(metric.name, math.nan) for row in rows]
    finite = [i for i, value in enumerate(values) if math.isfinite(value)]
    if not finite:
        return [None] * len(rows)
    best = (min if metric.better == "lower" else max)(finite, key=lambda i: values[i])
    critical = _critical(metric, [rows[i] for i in finite], units)
    found: list[Standing | None] = [None] * len(rows)
    for i in finite:
        compared = difference(metric, rows[i], rows[best], units, critical)
        found[i] = Standing(0.0, 0.0, 0.0, best=True) if i == best else compared
    return found


def difference(
    metric: Metric, row: Row, other: Row, units: Sequence[int] = (), critical: float | None = None
) -> Standing:
    """`row` − `other`, with an interval of ± `critical` standard errors; by default 95 % for this pair alone.

    Both cells use the same noise and prompts, so the difference is paired unit by unit and follows Student's t. Values
    without units are taken as independent and normal. Without standard errors only equal values tie.
    """
    from scipy.special import ndtr, ndtri, stdtr, stdtrit  # slow to import

    mean = row.metrics[metric.name] - other.metrics[metric.name]
    a, b = (of_units(metric, one, units) for one in (row, other))
    if a is not None and b is not None and a.shape == b.shape:
        freedom = a.shape[1] - 1
        error = jackknife.standard_error(a - b) if freedom else math.inf
        quantile = float(stdtrit(freedom, _QUANTILE)) if freedom else 1.0
        tail = float(stdtr(freedom, -abs(mean) / error)) if freedom and error else 0.0
    else:
        error = math.hypot(*(one.stderr.get(metric.name, 0.0) for one in (row, other)))
        quantile = float(ndtri(_QUANTILE))
        tail = float(ndtr(-abs(mean) / error)) if error else 0.0
    margin = (quantile if critical is None else critical) * error if error else 0.0
    return Standing(mean, mean - margin, mean + margin, error=error, p=2 * tail if mean and error < math.inf else 1.0)


def standard_error(metric: Metric, row: Row, units: Sequence[int] = ()) -> float | None:
    """The standard error of the row's value, or None if it has none."""
    values = of_units(metric, row, units)
    if values is None or values.shape[1] < 2:
        return row.stderr.get(metric.name)
    return metric.error(jackknife.standard_error(values), values.shape[1])


def interval(metric: Metric, row: Row, units: Sequence[int] = ()) -> tuple[float, float] | None:
    """The 95 % interval of the row's value, or None without a standard error.

    It is Student's, or for a share Wilson's with as many trials as the standard error stands for.
    """
    from scipy.special import ndtri, stdtrit

    values, value = of_units(metric, row, units), row.metrics[metric.name]
    if values is None or values.shape[1] < 2:
        error = row.stderr.get(metric.name)
        return None if error is None else (value - ndtri(_QUANTILE) * error, value + ndtri(_QUANTILE) * error)
    error, count = jackknife.standard_error(values), values.shape[1]
    quantile = float(stdtrit(count - 1, _QUANTILE))
    if not metric.share:
        return value - quantile * error, value + quantile * error
    trials = value * (1 - value) / error**2 if error else count
    weight = quantile**2 / trials
    middle = (value + weight / 2) / (1 + weight)
    half = math.sqrt(value * (1 - value) * weight + weight**2 / 4) / (1 + weight)
    return middle - half, middle + half


def extrapolated(metric: Metric, row: Row) -> float | None:
    """The row's value extrapolated to infinitely many images, for a metric that is biased for few; otherwise None."""
    found = row.replicates.get(metric.name)
    return float(found[0].mean()) if metric.biased and found is not None else None


def of_units(metric: Metric, row: Row, units: Sequence[int] = ()) -> NDArray[np.floating] | None:
    """The values of the units, (1, U), or the jackknife's replicates of a metric of the whole set, (2, U).

    The mean of the first row is the value, or the value extrapolated to infinitely many images.
    """
    values = row.per_image.get(metric.name)
    if values is None:
        return row.replicates.get(metric.name)
    values = np.asarray(values, dtype=np.float64)
    if len(units) != len(values) or not jackknife.FEWEST <= len(set(units)) < len(values):
        return values[None]  # from fewer prompts nothing follows for others, and the images are the units
    sums = np.bincount(units, values - values.mean())
    return (values.mean() + sums * len(sums) / len(values))[None]


def _critical(metric: Metric, rows: Sequence[Row], units: Sequence[int]) -> float:
    """How many standard errors apart two rows must be to be told apart."""
    from scipy.special import ndtri

    found = [of_units(metric, row, units) for row in rows]
    values = [one[0] for one in found if one is not None and one.shape[1] > 1]
    if len(values) == len(rows) and len({len(one) for one in values}) == 1:
        return critical_value(np.stack(values), _CONFIDENCE)
    pairs = max(1, math.comb(len(rows), 2))
    return float(ndtri(1 - (1 - _CONFIDENCE) / (2 * pairs)))
