"""Pivot tables: one metric over two settings, such as steps × CFG scale."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from sdlab.report.columns import Column, Field, Table
from sdlab.report.query import column_of
from sdlab.report.table import AXES, CHOICES, plain
from sdlab.sweep.cell import Cell
from sdlab.sweep.store import Row
from sdlab.system.errors import UsageError


def pivoted(table: Table, cells: Sequence[Cell], axes: str, value: str) -> Table:
    """The table with one row per value of the first axis and one column per value of the second.

    Args:
        table: the table of results.
        cells: the cells of its rows.
        axes: two settings, like `"steps x scale"`. Other settings that differ between cells are in front of each row.
        value: the column whose values are shown.

    Raises:
        UsageError: a column is unknown, or the axes are not two settings.
    """
    names = re.split(r"\s+x\s+|\s*[×,]\s*", axes.strip())
    if len(names) != 2:
        raise UsageError(f'--pivot: write two settings like "steps x scale", got {axes!r}')
    down, across = (column_of(table, name, "--pivot") for name in names)
    for column in (down, across):
        if column.name.partition(".")[0] not in AXES:
            raise UsageError(f"--pivot: {column.name} is not a setting; choose steps, sampler, guidance.scale or so")
    if down.name == across.name:
        raise UsageError(f"--pivot: both settings are {down.name}; name two")
    shown = column_of(table, value, "--value")
    beside = _other_settings(cells, {down.name, across.name})
    places = [(*(texts[i] for texts in beside.values()), down.values[i]) for i in range(len(cells))]
    rows = {place: i for i, place in reversed(list(enumerate(places)))}  # the first cell of each row
    order = sorted(set(rows.values()))
    heads = {plain(across.values[i]): across.values[i] for i in range(len(cells))}
    members: dict[tuple[object, str], list[int]] = {}
    for i, place in enumerate(places):
        members.setdefault((place, plain(across.values[i])), []).append(i)
    columns = [_words(name, [texts[i] for i in order]) for name, texts in beside.items()]
    columns.append(replace(down.at(order), people=True, machine=True))
    for head in heads:
        inside = [members.get((places[i], head), []) for i in order]
        columns.append(_column(f"{across.name}={head}", f"{across.name} {head}", shown, inside))
    title = f"{table.title}: {shown.heading} over {down.name} and {across.name}"
    return Table(title, (*columns[:-1], replace(columns[-1], about=shown.about)), table.caption)


def _column(name: str, heading: str, shown: Column, members: Sequence[Sequence[int]]) -> Column:
    """The column of one value of the second axis. Cells in one place are alike up to spelling, and all are shown."""
    fields = [[shown.fields[i] for i in inside] for inside in members]
    return Column(
        name,
        heading,
        tuple(shown.values[inside[0]] if inside else None for inside in members),
        tuple(found[0] if len(found) == 1 else Field(", ".join(map(str, found))) for found in fields),
        shown.left,
    )


def _other_settings(cells: Sequence[Cell], used: set[str]) -> dict[str, list[str]]:
    """The settings beside those used that differ between cells."""
    found = {}
    for axis, text in AXES.items():
        if axis in used or (axis == "steps" and any(cell.budget is not None for cell in cells)):
            continue
        texts = [text(Row("", _without(cell, axis, used))) for cell in cells]
        if len(set(texts)) > 1:
            found[axis] = texts
    return found


def _without(cell: Cell, axis: str, used: set[str]) -> Cell:
    """The cell without the used options of an axis."""
    if axis not in CHOICES:
        return cell
    choice = getattr(cell, axis)
    options = {key: value for key, value in choice.options.items() if f"{axis}.{key}" not in used}
    return cell.model_copy(update={axis: choice.model_copy(update={"options": options})})


def _words(name: str, texts: Sequence[str]) -> Column:
    return Column(name, name, tuple(texts), tuple(map(Field, texts)), left=name in CHOICES)
