"""The table of differences between pairs of cells that differ in one option, paired image by image."""

from __future__ import annotations

from collections.abc import Sequence

from sdlab.metrics import Metric
from sdlab.report.statistics import Standing, difference
from sdlab.report.table import AXES, NUMBERS, TIE, Field, Table
from sdlab.sweep.cell import Cell
from sdlab.sweep.pairs import pairs
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row

_BETTER, _WORSE = "✓", "✗"
_FALSE = 0.05  # expected share of marks that are there by chance


def make_differences(plan: Plan, rows: Sequence[Row]) -> Table | None:
    """One row per pair of finished cells that differ in `plan.compare` alone; None if `plan.compare` is not set."""
    if plan.compare is None:
        return None
    axis, _, option = plan.compare.partition(".")
    axis = {"passes": "budget"}.get(axis, axis)  # as the cells and the table call it
    done = [row for row in rows if row.ok]
    found = [(done[first], done[other]) for first, other in pairs([row.cell for row in done], plan.compare)]
    alike = [Row("", _without(other.cell, axis, option)) for _, other in found]
    texts = {name: [text(row) for row in alike] for name, text in AXES.items() if option or name != axis}
    names = [name for name, column in texts.items() if len(set(column)) > 1]
    words, numbers = ([name for name in names if (name in NUMBERS) is number] for number in (False, True))
    judged = _judged(plan, found)
    return Table(
        f"{plan.name}: differences in {plan.compare}",
        (
            *words,
            plan.compare,
            *numbers,
            *(f"Δ {m.label} {'↓' if m.better == 'lower' else '↑'}" for m in plan.measures),
        ),
        tuple(
            (
                *(Field(texts[name][i]) for name in words),
                Field(" − ".join(_value(row.cell, axis, option) for row in (other, first))),
                *(Field(texts[name][i]) for name in numbers),
                *(_change(metric, *judged[metric.name][i]) for metric in plan.measures),
            )
            for i, (first, other) in enumerate(found)
        ),
        _caption(plan, len(found)),
        left=len(words) + 1,
    )


def _without(cell: Cell, axis: str, option: str) -> Cell:
    """The cell without the option, so that both cells of a pair have the same label."""
    if not option:
        return cell
    choice = getattr(cell, axis)
    rest = {key: value for key, value in choice.options.items() if key != option}
    return cell.model_copy(update={axis: choice.model_copy(update={"options": rest})})


def _value(cell: Cell, axis: str, option: str) -> str:
    return str(cell.complete()[axis].get(option, "default")) if option else AXES[axis](Row("", cell))


def _judged(plan: Plan, pairs: Sequence[tuple[Row, Row]]) -> dict[str, list[tuple[Standing, bool]]]:
    """The difference of each pair in each metric, and whether it is distinguishable among all of them."""
    from scipy.stats import false_discovery_control  # slow to import

    found = {
        metric.name: [difference(metric, other, first, plan.units) for first, other in pairs]
        for metric in plan.measures
    }
    adjusted = iter(false_discovery_control([one.p for column in found.values() for one in column]))
    return {name: [(one, float(next(adjusted)) <= _FALSE) for one in column] for name, column in found.items()}


def _change(metric: Metric, found: Standing, distinguishable: bool) -> Field:
    """`"+0.012±.004"`, marked as better, worse or neither."""
    text = f"{found.difference:+.{metric.digits}f}±{found.error:.{metric.digits}f}".replace("±0.", "±.")
    if not distinguishable:
        return Field(text, TIE)
    return Field(text, _BETTER if (found.difference < 0) is (metric.better == "lower") else _WORSE)


def _caption(plan: Plan, count: int) -> tuple[str, ...]:
    return (
        f"{_BETTER} better, {_WORSE} worse, {TIE} not distinguishable. Of the marks on these "
        f"{count * len(plan.measures)} differences, at most {_FALSE:.0%} are expected to be wrong (false-discovery "
        "rate, Benjamini and Hochberg 1995). ± one standard error of the difference. Both cells of a row use the same "
        "noise and prompts, so differences are paired.",
    )
