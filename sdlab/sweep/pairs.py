"""Pairs of cells that differ in one setting alone, such as the CFG scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdlab.sweep.cell import Cell, canonical


def pairs(cells: Sequence[Cell], what: str) -> list[tuple[int, int]]:
    """Indices of cells that differ in `what` alone. Each cell is paired with the first cell that is otherwise equal.

    `what` is an axis, like "guidance", or an option of one, like "guidance.scale". Cells with a budget may also differ
    in the number of steps that fit in it.
    """
    first: dict[str, int] = {}
    found = []
    for i, cell in enumerate(cells):
        rest = canonical(_without(cell, what))
        if first.setdefault(rest, i) != i:
            found.append((first[rest], i))
    return found


def _without(cell: Cell, what: str) -> dict[str, Any]:
    parts, (axis, _, option) = cell.complete(), what.partition(".")
    if option and isinstance(parts.get(axis), dict):
        parts[axis] = {key: value for key, value in parts[axis].items() if key != option}
    elif not option:
        parts.pop({"passes": "budget"}.get(axis, axis), None)
    if cell.budget is not None:
        parts.pop("steps", None)
    return parts
