"""The table of factors: how much of the variance between cells is due to each setting, to interactions and to noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sdlab.metrics import Metric, jackknife
from sdlab.report.columns import Column, Field, Table
from sdlab.report.statistics import Measured, first_images, of_units
from sdlab.report.table import AXES, CHOICES
from sdlab.report.variance import NOISE, REST, SHARED, Array, Share, design, shares
from sdlab.sweep.cell import Choice
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row

_FEWEST = 3  # cells
_LARGEST = 1e100
_NAMED = 2  # effects in a summary


def make_factors(plan: Plan, rows: Sequence[Row]) -> Table | None:
    """One row per effect, with its share of the variance of each metric between the cells that have values.

    None without metrics, if no setting varies, or for fewer than three cells.
    """
    done = [row for row in rows if _has_values(plan, row)]
    varying = factors(done)
    if not plan.metrics or not varying or len(done) < _FEWEST:
        return None
    effects = design(varying)
    found = {metric.name: shares(*_values(metric, done, plan.units), effects) for metric in plan.measures}
    first = next(iter(found.values()))
    freedom = tuple(share.freedom for share in first.values())
    columns = (
        Column("effect", "effect", tuple(first), tuple(map(Field, first)), left=True),
        Column("df", "df", freedom, tuple(Field("" if one is None else str(one)) for one in freedom)),
        *(column for metric in plan.measures for column in _columns(metric, tuple(found[metric.name].values()))),
    )
    levels = ", ".join(f"{name} ({len(set(one))} values)" for name, one in varying.items())
    lines = [
        f"Shares of the variance between {len(done)} cells: {levels}.",
        "In brackets is the 95 % interval. An effect is its sum of squares less what noise adds to it, so noise is not "
        f"taken for an effect; a share below 0 is none. {NOISE}: the variance that the standard errors explain.",
    ]
    if REST in effects.effects:
        more = "" if effects.pairs else ", and those of two, which have too many combinations to be separated"
        lines.append(f"{REST}: those of three or more settings{more}.")
    if not effects.full:
        lines.append(
            "The cells are not a full factorial plan. Each effect is what it explains beyond all effects that do not "
            f"contain it (type II). {SHARED}: what several effects explain equally well or, if it is below 0, together."
        )
    if len(done) < len(rows):
        lines.append(f"Cells without values are left out: {len(rows) - len(done)} of {len(rows)}.")
    if logarithms := [metric.label for metric in plan.measures if _by_powers(metric, done)]:
        lines.append(f"{', '.join(logarithms)}: of the logarithm.")
    if exact := [m.label for m in plan.measures if all(one.low is None for one in found[m.name].values())]:
        lines.append(
            f"{', '.join(exact)}: differences have no standard errors, so no noise is subtracted, without intervals."
        )
    return Table(f"{plan.name}: variance between cells", columns, tuple(lines))


def summary(plan: Plan, table: Table) -> str:
    """The largest shares of each metric, in one line."""
    names, columns = table.columns[0].values, {column.name: column for column in table.columns}
    parts = []
    for metric in plan.measures:
        column = columns[metric.name]
        real = [i for i, name in enumerate(names) if name not in (NOISE, SHARED)]
        largest = sorted(real, key=lambda i: -float(column.values[i] or 0.0))[:_NAMED]
        named = ", ".join(f"{names[i]} {column.fields[i].text}" for i in [*largest, names.index(NOISE)])
        parts.append(f"{metric.label}: {named}")
    return f"Largest shares of the variance between cells: {'; '.join(parts)}. --factors shows all."


def factors(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The settings that differ between rows, each with its level in every row.

    A choice that differs in one option alone has the name of the option, like `guidance.scale`. With a budget of passes
    in every row the steps follow from it and are left out. Numbers of images and seeds are no settings: there are no
    factors among rows that differ in them.
    """
    if repeated(rows):
        return {}
    budgets = bool(rows) and all(row.cell.budget is not None for row in rows)
    texts = {axis: [text(row) for row in rows] for axis, text in AXES.items() if not (budgets and axis == "steps")}
    return {_name(axis, rows): levels for axis, levels in texts.items() if len(set(levels)) > 1}


def repeated(rows: Sequence[Row]) -> bool:
    """Whether rows differ in their number of images or their seeds."""
    return len({(row.cell.images, row.cell.seed) for row in rows}) > 1


def _name(axis: str, rows: Sequence[Row]) -> str:
    if axis not in CHOICES:
        return axis
    choices: list[Choice] = [getattr(row.cell, axis) for row in rows]
    keys = dict.fromkeys(key for choice in choices for key in choice.options)
    differing = [key for key in keys if len({repr(choice.options.get(key)) for choice in choices}) > 1]
    return f"{axis}.{differing[0]}" if len({one.name for one in choices}) == len(differing) == 1 else axis


def _has_values(plan: Plan, row: Row) -> bool:
    """Whether the row has all metrics, and no number that is too large to be squared."""
    numbers = [one for name in plan.metrics for one in (row.metrics.get(name, math.nan), row.stderr.get(name, 0.0))]
    return row.ok and all(abs(one) <= _LARGEST for one in numbers)


def _by_powers(metric: Metric, rows: Sequence[Row]) -> bool:
    """Whether logarithms are analysed: the values range over powers of ten, where a sum of squares is its largest."""
    return metric.powers and all(row.metrics[metric.name] > 0 for row in rows)


def _values(metric: Metric, rows: Sequence[Row], units: Sequence[int]) -> tuple[Array, Array]:
    """The values of the rows, (K,), and a matrix F with F Fᵀ the covariance of their errors, or standard errors (K,).

    With values of units, which are the same in all cells, the covariance is that of their deviations. Otherwise the
    errors are taken as independent. Images that some cells lack do not count.
    """
    shared = min(len(row.per_image.get(metric.name, ())) for row in rows)
    alike: list[Measured] = [first_images(metric, row, shared) for row in rows] if shared else [*rows]
    values = np.array([row.metrics[metric.name] for row in alike])
    found = [one for row in alike if (one := of_units(metric, row, units)) is not None]
    if len(found) == len(rows) and len({one.shape for one in found}) == 1 and found[0].shape[1] >= jackknife.FEWEST:
        noise = _deviations(np.stack(found))
    else:
        noise = np.array([row.stderr.get(metric.name, 0.0) for row in alike])
    return (np.log(values), (noise.T / values).T) if _by_powers(metric, rows) else (values, noise)


def _deviations(found: Array) -> Array:
    """The deviations of the units, (K, U), scaled to standard errors, from values (K, 1, U) or replicates (K, 2, U)."""
    units = found.shape[2]
    deviations = (found[:, 0] - found[:, 0].mean(axis=1, keepdims=True)) / math.sqrt(units * (units - 1))
    total = sum(float(np.square(one).sum()) for one in deviations)
    corrected = sum(jackknife.standard_error(one) ** 2 for one in found)
    return deviations * math.sqrt(corrected / total) if total else deviations


def _columns(metric: Metric, found: Sequence[Share]) -> tuple[Column, ...]:
    """The shares of a metric, and their intervals for programs."""
    lows, highs = [one.low for one in found], [one.high for one in found]
    return (
        Column(metric.name, metric.label, tuple(one.value for one in found), tuple(map(_field, found))),
        *(
            Column(f"{metric.name}_{end}", end, tuple(limits), tuple(Field("") for _ in found), people=False)
            for end, limits in (("low", lows), ("high", highs))
        ),
    )


def _field(share: Share) -> Field:
    """`"62% [55, 68]"`."""
    limits = "" if share.low is None or share.high is None else f" [{100 * share.low:.0f}, {100 * share.high:.0f}]"
    return Field(f"{100 * share.value:.0f}%".replace("-0%", "0%"), error=limits)
