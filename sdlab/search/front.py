"""The Pareto front of the trials, and its table with the values of the second half of the images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sdlab.metrics import Metric
from sdlab.report.columns import Column, Field, Table
from sdlab.report.statistics import interval
from sdlab.report.table import make_table
from sdlab.search.document import SearchPlan
from sdlab.sweep.cell import canonical
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row


def front_of(rows: Sequence[Row], metric: Metric) -> list[Row]:
    """The rows that no other one equals or beats in both network passes and the metric, by rising passes.

    Of rows that are equal in both it is the first.
    """
    sign = -1.0 if metric.better == "higher" else 1.0
    best, found = math.inf, list[Row]()
    for row in sorted(rows, key=lambda row: (row.network_passes, sign * row.metrics[metric.name])):
        if (value := sign * row.metrics[metric.name]) < best:
            best = value
            found.append(row)
    return found


def front_table(
    search: SearchPlan, plan: Plan, rows: Sequence[Row], chosen: Sequence[Row], real: Mapping[str, Sequence[float]]
) -> Table:
    """The cells of the front, measured on the second half: the value, its 95 % interval, and that of the first half.

    Args:
        search: the search.
        plan: the plan of the second half, with the cells of the front.
        rows: their rows.
        chosen: the rows of the first half, one of each cell.
        real: metrics to value and standard error on real pictures.
    """
    table, metric = make_table(plan, rows, real), search.quality
    place = next(i for i, column in enumerate(table.columns) if column.name == metric.name) + 1
    ends = [interval(metric, row, plan.units) if row.ok else None for row in rows]
    texts = ["–" if one is None else f"{metric.text(one[0])} to {metric.text(one[1])}" for one in ends]
    score = {canonical(row.cell.complete()): row.metrics[metric.name] for row in chosen}
    before = [score[canonical(row.cell.complete())] for row in rows]
    more = [
        Column("interval", "95 % interval", tuple(texts), tuple(map(Field, texts))),
        Column("first_half", "first half", tuple(before), tuple(Field(metric.text(value)) for value in before)),
    ]
    half = search.second.images
    caption = (
        f"The cells with the best {metric.label} for their network passes, chosen on {half} images and measured on "
        f"{half} others. The values of the first half, by which they were chosen, are on average too good.",
        *table.caption,
    )
    title = f"{search.name}: the front of {len(chosen)} cells"
    return replace(table, title=title, columns=(*table.columns[:place], *more, *table.columns[place:]), caption=caption)
