"""Which cell is best, which cannot be told from it, and which two differ in one thing alone.

Image i has the same prompt and the same noise in every cell, so two cells are compared image by image: what an easy
prompt does to both drops out of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from sdlab.metrics import MetricInfo
from sdlab.sweep.cell import Cell, canonical
from sdlab.sweep.store import Row

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Standing:
    """A cell against the best one: its difference from it, with a 95 % confidence interval."""

    difference: float
    low: float
    high: float
    best: bool = False
    error: float = 0.0  # one standard error of the difference

    @property
    def ties(self) -> bool:
        """Whether the cell is another than the best one and cannot be told from it."""
        return not self.best and self.low <= 0 <= self.high


def standings(metric: MetricInfo, rows: Sequence[Row]) -> list[Standing | None]:
    """The standing of each row; None for those without a value. A later row that equals the best one ties with it."""
    values = [row.metrics.get(metric.name, math.nan) for row in rows]
    finite = [i for i, value in enumerate(values) if math.isfinite(value)]
    if not finite:
        return [None] * len(rows)
    best = (min if metric.better == "lower" else max)(finite, key=lambda i: values[i])
    found: list[Standing | None] = [None] * len(rows)
    for i in finite:
        found[i] = Standing(0.0, 0.0, 0.0, best=True) if i == best else difference(metric, rows[i], rows[best])
    return found


def difference(metric: MetricInfo, row: Row, other: Row) -> Standing:
    """`row` − `other`, paired over the images where the metric is a mean over them.

    The interval is Student's, of the mean of the paired differences. A metric of the whole set has the normal interval
    of two independent values. It is wide, as the sets share their noise: a tie may be called too often, a difference
    hardly too soon. Without standard errors nothing but equality is a tie.
    """
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


_QUANTILE = (1 + _CONFIDENCE) / 2


def pairs(cells: Sequence[Cell], what: str) -> list[tuple[int, int]]:
    """Indices of cells that differ in `what` alone, an axis or an option of one: the first of its kind, and another.

    Cells with a budget may differ in the steps too that it buys.
    """
    first: dict[str, int] = {}
    found = []
    for i, cell in enumerate(cells):
        kind = canonical(_without(cell, what))
        if first.setdefault(kind, i) != i:
            found.append((first[kind], i))
    return found


def _without(cell: Cell, what: str) -> dict[str, Any]:
    parts, (axis, _, option) = cell.complete(), what.partition(".")
    if option and isinstance(parts[axis], dict):
        parts[axis] = {key: value for key, value in parts[axis].items() if key != option}
    elif not option:
        parts.pop({"passes": "budget"}.get(axis, axis), None)
    if cell.budget is not None:
        del parts["steps"]
    return parts


def standard_error(metric: MetricInfo, row: Row) -> float | None:
    """The one the bench gave, else that of the mean over images, else None."""
    if metric.name in row.stderr:
        return row.stderr[metric.name]
    values = row.per_image.get(metric.name)
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if values is not None and len(values) > 1 else None
