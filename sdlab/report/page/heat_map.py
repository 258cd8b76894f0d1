"""The layout of a heat map of the cells: steps by CFG scale, with one panel per choice of all else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdlab.report.columns import Value
from sdlab.report.table import AXES
from sdlab.sweep.cell import Choice
from sdlab.sweep.store import Row

_NO_SCALE = "none"


@dataclass(frozen=True)
class HeatMap:
    """The place of each cell. Rows and panels are in the order in which they are shown."""

    across: str
    down: str
    rows: tuple[str, ...]
    panels: tuple[str, ...]
    squares: tuple[tuple[Value, str, str], ...]  # column, row and panel of each cell
    columns: tuple[Value, ...] = ()  # in their order; empty for numbers that rise


def heat_map(rows: Sequence[Row], scales: Sequence[Value]) -> HeatMap:
    """Steps by CFG scale if the scale varies, else steps by sampler. `scales` are the cells' scales, if they have one.

    Columns are budgets or strengths if those vary in place of the steps. Cells without guidance are a row of the panel
    of a sampler's only guidance strategy. If nothing but the scale varies over columns, they are scales, and the rows
    are guidance strategies.
    """
    across = next((name for name in ("budget", "steps", "strength") if _varies(rows, name)), "steps")
    by_scale = len({scale for scale in scales if _is_number(scale)}) > 1
    families = [_without_scale(row.cell.guidance) if _is_number(s) else "" for row, s in zip(rows, scales, strict=True)]
    one_family = len({family for family in families if family}) == 1
    others = [name for name in AXES if name not in (across, "budget", "steps", "guidance", "sampler")]
    others = [name for name in others if _varies(rows, name)]
    if by_scale and not _varies(rows, across):
        return _by_strategy(rows, scales, families, others)
    several = _varies(rows, "guidance")
    squares: list[tuple[Value, str, str]] = []
    for row, scale, family in zip(rows, scales, families, strict=True):
        guidance = row.cell.guidance.label
        rest = [AXES[name](row) for name in others]
        if by_scale:
            down = f"{scale:g}" if isinstance(scale, int | float) else guidance
            panel = [row.cell.sampler.label, *([] if one_family else [family or guidance]), *rest]
        else:
            down = row.cell.sampler.label
            panel = [*([guidance] if several else []), *rest]
        squares.append((getattr(row.cell, across), down, " · ".join(panel)))
    numbers = sorted({float(scale) for scale in scales if isinstance(scale, int | float)}, reverse=True)
    order = {f"{scale:g}": None for scale in numbers} if by_scale else {}
    return HeatMap(
        across,
        "CFG scale" if by_scale else "sampler",
        tuple(dict.fromkeys((*order, *(down for _, down, _ in squares)))),
        tuple(dict.fromkeys(panel for *_, panel in squares)),
        tuple(squares),
    )


def _by_strategy(
    rows: Sequence[Row], scales: Sequence[Value], families: Sequence[str], others: Sequence[str]
) -> HeatMap:
    """Guidance strategies by scale. Strategies without a scale are in a column of their own."""
    beside = [*(["sampler"] if _varies(rows, "sampler") else []), *others]
    squares = [
        (
            f"{scale:g}" if isinstance(scale, int | float) else _NO_SCALE,
            family or row.cell.guidance.label,
            " · ".join(AXES[name](row) for name in beside),
        )
        for row, scale, family in zip(rows, scales, families, strict=True)
    ]
    numbers = sorted({float(scale) for scale in scales if isinstance(scale, int | float)})
    columns = (_NO_SCALE, *(f"{scale:g}" for scale in numbers))
    down, panels = (tuple(dict.fromkeys(square[k] for square in squares)) for k in (1, 2))
    return HeatMap("CFG scale", "guidance", down, panels, tuple(squares), columns)


def _varies(rows: Sequence[Row], axis: str) -> bool:
    return len({AXES[axis](row) for row in rows}) > 1


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float)


def _without_scale(guidance: Choice) -> str:
    return Choice(name=guidance.name, options={k: v for k, v in guidance.options.items() if k != "scale"}).label
