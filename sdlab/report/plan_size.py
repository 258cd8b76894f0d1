"""The number of images that a difference needs, from the variance of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from samplers.checks import unknown
from sdlab.metrics import Metric
from sdlab.report.columns import Column, Field, Table
from sdlab.report.looks import several_counts, standings_of
from sdlab.report.statistics import critical_errors, difference, of_units
from sdlab.report.stored_run import StoredRun
from sdlab.report.table import AXES, NUMBERS, name_of
from sdlab.sweep.store import Row
from sdlab.system.errors import UsageError

_CONFIDENCE = 0.95
_MOST = 10**12  # units; more are not planned


def plan_size(run: StoredRun, wanted: float, name: str | None = None, power: float = 0.8) -> Table:
    """One row per cell: how many images show that it differs by `wanted` from the best cell, if it does.

    Args:
        run: a finished run, whose paired variance is used.
        wanted: the difference, in units of the metric.
        name: the metric; it may be left out if the run has only one.
        power: the probability that a difference of this size is found.

    Raises:
        UsageError: a value is out of range, or the run cannot answer.
    """
    if not 0 < wanted < math.inf:
        raise UsageError(f"--difference should be above 0, got {wanted:g}")
    if not 0.05 < power < 1:
        raise UsageError(f"--power should be above 0.05 and below 1, got {power:g}")
    metric, plan = _metric(run, name), run.plan
    rows = [row for row in run.rows if math.isfinite(row.metrics.get(metric.name, math.nan))]
    if len(rows) < 2:
        raise UsageError(f"{plan.name} has fewer than two cells with {metric.label}; a difference needs two")
    if several_counts(plan, rows):
        raise UsageError(f"{plan.name} has cells with different numbers of images; plan from a run with equal ones")
    counts = [0 if (found := of_units(metric, row, plan.units)) is None else found.shape[1] for row in rows]
    if min(counts) < 2:
        raise UsageError(f"{metric.label} has no values per image in {plan.name}, so its variance is unknown")
    ranked = standings_of(plan, metric, rows, run.real)
    best = next((i for i, one in enumerate(ranked) if one is not None and one.best), None)
    if best is None:
        raise UsageError(f"{plan.name} does not know the {metric.label} of real pictures, so no cell is the best")
    others = [row for i, row in enumerate(rows) if i != best]
    deviations = [_deviation(metric, row, rows[best], plan.units) for row in others]
    at_once = critical_errors(metric, rows, plan.units)
    per_unit = plan.images / min(counts)
    alone, table = (
        [math.ceil(needed(sd, wanted, power, least) * per_unit) for sd in deviations] for least in (0.0, at_once)
    )
    varying = [axis for axis, text in AXES.items() if len({text(row) for row in rows}) > 1]
    columns = (
        *(_settings(axis, [AXES[axis](row) for row in others]) for axis in varying),
        _numbers("deviation", "deviation", deviations, f".{max(3, metric.digits)}g"),
        _numbers("images", "images, this pair", alone, ",.0f"),
        _numbers("images_at_once", "images, all cells at once", table, ",.0f"),
    )
    title = f"{plan.name}: images that show a difference of {wanted:g} in {metric.label}"
    return Table(
        title, columns, tuple(_caption(metric, name_of(rows[best], varying), run, power, per_unit, max(table)))
    )


def needed(deviation: float, wanted: float, power: float, least: float = 0.0) -> int:
    """The fewest units for which a paired t test at 95 % finds a difference `wanted` with this probability.

    `deviation` is the standard deviation of the difference of a unit. A difference counts from `least` standard errors
    on, if that is more than the quantile of t.
    """
    from scipy.special import nctdtr, stdtrit  # slow to import

    def enough(units: int) -> bool:
        margin = max(float(stdtrit(units - 1, (1 + _CONFIDENCE) / 2)), least)
        return float(nctdtr(units - 1, min(wanted * math.sqrt(units) / deviation, 1e3), margin)) <= 1 - power

    low, high = 1, 2
    if deviation == 0:
        return high
    while not enough(high) and high < _MOST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _metric(run: StoredRun, name: str | None) -> Metric:
    metrics = {metric.name: metric for metric in run.plan.measures}
    if name is None and len(metrics) == 1:
        return next(iter(metrics.values()))
    if not metrics:
        raise UsageError(f"{run.plan.name} has no metrics")
    if name is None:
        raise UsageError(f"--metric: name one of {', '.join(metrics)}")
    if name not in metrics:
        raise UsageError(f"--metric: {unknown('metric', name, metrics)}")
    return metrics[name]


def _deviation(metric: Metric, row: Row, best: Row, units: Sequence[int]) -> float:
    """The standard deviation of the difference of one unit."""
    values = of_units(metric, row, units)
    assert values is not None
    return difference(metric, row, best, units).error * math.sqrt(values.shape[1])


def _settings(name: str, texts: Sequence[str]) -> Column:
    return Column(name, name, tuple(texts), tuple(map(Field, texts)), left=name not in NUMBERS)


def _numbers(name: str, heading: str, values: Sequence[float], form: str) -> Column:
    return Column(name, heading, tuple(values), tuple(Field(f"{value:{form}}") for value in values))


def _caption(metric: Metric, best: str, run: StoredRun, power: float, per_unit: float, most: float) -> list[str]:
    unit = "image" if per_unit == 1 else f"group of {per_unit:.3g} images"
    lines = [
        f"Each cell is compared with {best}, the best of the run, from {run.plan.images} images per cell.",
        f"deviation: the standard deviation of the paired difference of one {unit}. With so many images, a paired test "
        f"at 95 % finds a true difference of this size with probability {power:.0%}: between this pair alone, or among "
        "all cells at once, as the marks of a table do.",
        f"{most:,.0f} images per cell are enough for every row. They are estimates: the deviations come from the run.",
    ]
    if not metric.per_image:
        lines.append(f"{metric.label} is a property of the whole set; its error is taken to fall as 1/√n.")
    return lines
