"""The table of differences between pairs of cells that differ in one option, paired image by image."""

from __future__ import annotations

from collections.abc import Sequence

from sdlab.metrics import Metric
from sdlab.report.statistics import difference
from sdlab.report.table import AXES, NUMBERS, TIE, Field, Table
from sdlab.sweep.cell import Cell
from sdlab.sweep.pairs import pairs
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row

_BETTER, _WORSE = "✓", "✗"


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
                *(_change(metric, other, first) for metric in plan.measures),
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


def _change(metric: Metric, row: Row, other: Row) -> Field:
    """`"+0.012±.004"`, marked as better, worse or neither."""
    found = difference(metric, row, other)
    text = f"{found.difference:+.{metric.digits}f}±{found.error:.{metric.digits}f}".replace("±0.", "±.")
    if found.low <= 0 <= found.high:
        return Field(text, TIE)
    return Field(text, _BETTER if (found.difference < 0) is (metric.better == "lower") else _WORSE)


def _caption(plan: Plan, count: int) -> tuple[str, ...]:
    wholes = [info.label for info in plan.measures if not info.per_image]
    lines = [
        f"{_BETTER} better, {_WORSE} worse, {TIE} not distinguishable, at 95 % confidence. ± one standard error of "
        "the difference. Both cells of a row use the same noise and prompts.",
        f"If nothing made a difference, about one in twenty of these {count * len(plan.measures)} differences would be "
        "marked as better or worse by chance. Trust what several rows agree on.",
    ]
    if wholes:
        lines.append(f"{', '.join(wholes)}: computed on the whole set, so not paired, and rarely distinguishable.")
    return tuple(lines)
