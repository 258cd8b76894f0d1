"""Early stopping: which cells need more images after a look at the data, and how the cells of a run compare.

Cells race for the best (Maron and Moore 1994, "Hoeffding races"). At each look every cell is compared with the best one
on the images that both have. The intervals hold for all pairs and all looks together, so with 95 % confidence no cell
is dropped that is as good as all others, however often one looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from scipy.special import ndtri

from sdlab.metrics import Metric
from sdlab.report.statistics import Standing, confidence, first_images, of_units, standings
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row


def unsettled(plan: Plan, rows: Sequence[Row], images: int) -> list[int]:
    """The indices of the rows that need more images, judged by the first `images` of each.

    They are those that cannot be distinguished from the best and whose interval is wider than ± `until`, and the best
    as long as there is such a row. Where all images of a share agree, the interval is that of one that might differ.
    """
    assert plan.until is not None
    [metric] = [one for one in plan.measures if one.name == plan.until.metric]
    some = [first_images(metric, row, images) for row in rows]
    found = standings(metric, some, plan.units, looks=len(plan.looks))
    values = [of_units(metric, row, plan.units) for row in some]
    quantile = float(ndtri((1 + confidence(len(plan.looks))) / 2))
    wide = list[int]()
    for i, (one, units) in enumerate(zip(found, values, strict=True)):
        assert one is not None
        assert units is not None
        least = quantile * metric.error(0.0, units.shape[1])
        if one.ties and max((one.high - one.low) / 2, least) > plan.until.until:
            wide.append(i)
    return [i for i, one in enumerate(found) if i in wide or (wide and one is not None and one.best)]


def several_counts(plan: Plan, rows: Sequence[Row]) -> bool:
    """Whether the plan gives these rows different numbers of images."""
    return len({plan.images_of(row.cell) for row in rows}) > 1


def standings_of(
    plan: Plan,
    metric: Metric,
    rows: Sequence[Row],
    real: Mapping[str, Sequence[float]] = MappingProxyType({}),
    among: Sequence[Row] | None = None,
) -> list[Standing | None]:
    """The standings of rows of a run, for all of its looks together.

    In the metric that stops a sweep, the best is one of the cells with the most images: the others were behind. A
    metric that depends on the number of images is not compared between cells with different numbers.
    """
    if metric.biased and several_counts(plan, rows):
        return [None] * len(rows)
    decides = plan.until is not None and plan.until.metric == metric.name
    known = real.get(metric.name, [None])[0]
    return standings(metric, rows, plan.units, among, known, len(plan.looks), finalists=decides)
