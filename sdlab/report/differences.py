"""The table of differences between pairs of cells that differ in one option, paired image by image."""

from __future__ import annotations

from collections.abc import Sequence

from sdlab.report.changes import Judged, changes_of, judge, legend
from sdlab.report.columns import Column, Field, Table
from sdlab.report.statistics import difference
from sdlab.report.table import AXES, NUMBERS
from sdlab.sweep.cell import Cell
from sdlab.sweep.pairs import pairs
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row


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
    settings = {name: _settings(name, texts[name]) for name in names}
    changes = [" − ".join(_value(row.cell, axis, option) for row in (other, first)) for first, other in found]
    columns = (
        *(settings[name] for name in words),
        _settings(plan.compare, changes),
        *(settings[name] for name in numbers),
        *(changes_of(metric, judged[metric.name]) for metric in plan.measures),
    )
    return Table(f"{plan.name}: differences in {plan.compare}", columns, _caption(plan, len(found)))


def _settings(name: str, texts: Sequence[str]) -> Column:
    return Column(name, name, tuple(texts), tuple(map(Field, texts)), left=name not in NUMBERS)


def _without(cell: Cell, axis: str, option: str) -> Cell:
    """The cell without the option, so that both cells of a pair have the same label."""
    if not option:
        return cell
    choice = getattr(cell, axis)
    rest = {key: value for key, value in choice.options.items() if key != option}
    return cell.model_copy(update={axis: choice.model_copy(update={"options": rest})})


def _value(cell: Cell, axis: str, option: str) -> str:
    return str(cell.complete()[axis].get(option, "default")) if option else AXES[axis](Row("", cell))


def _judged(plan: Plan, pairs: Sequence[tuple[Row, Row]]) -> dict[str, list[Judged]]:
    """The difference of each pair in each metric, judged among all of them."""
    return judge({m.name: [difference(m, other, first, plan.units) for first, other in pairs] for m in plan.measures})


def _caption(plan: Plan, count: int) -> tuple[str, ...]:
    same = "Both cells of a row use the same noise and prompts, so differences are paired."
    return (f"{legend(count * len(plan.measures), plan.measures)} {same}",)
