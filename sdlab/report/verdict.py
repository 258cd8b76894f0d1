"""The verdict on each metric: the best cell, and all that cannot be distinguished from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sdlab.metrics import Metric
from sdlab.report.looks import several_counts
from sdlab.report.selection import corrected_best
from sdlab.report.statistics import Standing, extrapolated
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row

_NAMED = 3  # ties that are named


def verdicts(
    plan: Plan, rows: Sequence[Row], names: Sequence[str], ranked: Mapping[str, Sequence[Standing | None]]
) -> list[str]:
    """One line per metric. `names` are those of the rows, and `ranked` has their standings by metric."""
    return [_verdict(plan, metric, rows, names, ranked[metric.name]) for metric in plan.measures if len(rows) > 1]


def _verdict(
    plan: Plan, metric: Metric, rows: Sequence[Row], names: Sequence[str], standings: Sequence[Standing | None]
) -> str:
    found = [(i, one) for i, one in enumerate(standings) if one is not None]
    if not found:
        known = any(metric.name in row.metrics for row in rows)
        if known and several_counts(plan, rows):
            return f"{metric.label} depends on the number of images, so cells with different numbers are not ranked."
        return f"{metric.label}: {'the value of real pictures is not known' if known else 'no values'}."
    [best] = [i for i, one in found if one.best]
    ties = [names[i] for i, one in found if one.ties]
    more = f" and {len(ties) - _NAMED} more" if len(ties) > _NAMED else ""
    others = f"; {', '.join(ties[:_NAMED])}{more} cannot be distinguished from it" if ties else ", ahead of all others"
    parts = [f"{metric.label}: {names[best]} is best{others}."]
    if (corrected := corrected_best(metric, rows, plan.units)) is not None:
        parts.append(f"Its value is {metric.text(corrected)} after correcting for the choice among {len(found)} cells.")
    if (limit := extrapolated(metric, rows[best])) is not None:
        parts.append(f"Extrapolated to infinitely many images it is {metric.text(limit)}.")
    return " ".join(parts)
