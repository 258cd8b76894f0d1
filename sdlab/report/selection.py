"""The value of the best cell, corrected for its choice.

The best of many cells is partly best by luck, so its value flatters it. Here the cell is chosen on one half of the
seeds, and its value is that on the other half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sdlab.metrics import Metric, jackknife
from sdlab.report.statistics import of_units
from sdlab.sweep.store import Row

_SPLITS = 200


def corrected_best(metric: Metric, rows: Sequence[Row], units: Sequence[int] = ()) -> float | None:
    """The value of the cell that is best on one half of the units, measured on the other half; the mean over splits.

    None for fewer than two cells, without enough units, or if neither lower nor higher values are better.
    """
    rows = [row for row in rows if math.isfinite(row.metrics.get(metric.name, math.nan))]
    found = [of_units(metric, row, units) for row in rows]
    values = [one[0] for one in found if one is not None and one.shape[1] >= jackknife.FEWEST]
    if (
        metric.better == "nearer to real"
        or len(rows) < 2
        or len(values) < len(rows)
        or len({len(one) for one in values}) > 1
    ):
        return None
    sign = -1.0 if metric.better == "lower" else 1.0
    scores = sign * np.stack(values)
    generator, count = np.random.default_rng(0), scores.shape[1]
    halves = generator.permuted(np.tile(np.arange(count) < count // 2, (_SPLITS, 1)), axis=1)
    chosen_on, shown_on = (half @ scores.T / half.sum(axis=1, keepdims=True) for half in (halves, ~halves))
    there = np.take_along_axis(shown_on, chosen_on.argmax(axis=1)[:, None], axis=1)
    here = np.take_along_axis(chosen_on, shown_on.argmax(axis=1)[:, None], axis=1)
    best = max(range(len(rows)), key=lambda i: sign * rows[i].metrics[metric.name])
    lost = scores[best].mean() - (there.mean() + here.mean()) / 2
    return rows[best].metrics[metric.name] - sign * float(lost)
