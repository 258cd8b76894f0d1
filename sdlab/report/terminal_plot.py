"""A small plot in a terminal: the first metric of a run against network passes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from sdlab.metrics import Metric
from sdlab.report.shown import on_log_axis
from sdlab.report.table import heading
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row
from sdlab.system.text import shown

_WIDTH, _HEIGHT = 60, 11  # characters of the plot, without its labels
_NARROWEST = 80
_SIGNS = "abcdefghijklmnopqrstuvwxyz"
_SEVERAL = "*"


def print_plot(console: Console, plan: Plan, rows: Sequence[Row]) -> None:
    """Plot the first metric, with a letter per sampler. Nothing is printed in a pipe, a narrow terminal or one without
    Unicode, nor without cells of different costs."""
    if not console.is_terminal or console.width < _NARROWEST or not console.encoding.lower().startswith("utf"):
        return
    for line in plot(plan.measures[0], rows) if plan.measures else ():
        console.print(Text(shown(line), "dim"))


def plot(metric: Metric, rows: Sequence[Row]) -> list[str]:
    """The lines of a plot, none unless two cells have values and different numbers of passes."""
    known = [row for row in rows if math.isfinite(row.metrics.get(metric.name, math.nan)) and row.network_passes > 0]
    names = list(dict.fromkeys(row.cell.sampler.label for row in known))
    if len({row.network_passes for row in known}) < 2 or len(names) > len(_SIGNS):
        return []
    values = [row.metrics[metric.name] for row in known]
    log = on_log_axis(metric, values)
    columns = _places([math.log(row.network_passes) for row in known], _WIDTH)
    lines = _places([math.log(value) if log else value for value in values], _HEIGHT)
    field = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for row, x, y in zip(known, columns, lines, strict=True):
        sign, there = _SIGNS[names.index(row.cell.sampler.label)], field[_HEIGHT - 1 - y][x]
        field[_HEIGHT - 1 - y][x] = sign if there in (" ", sign) else _SEVERAL
    labels = [metric.text(max(values)), *[""] * (_HEIGHT - 2), metric.text(min(values))]
    wide = max(map(len, labels))
    drawn = [f"{label:>{wide}} ┤{''.join(line).rstrip()}" for label, line in zip(labels, field, strict=True)]
    low, high = (f"{bound([row.network_passes for row in known]):g}" for bound in (min, max))
    keys = "  ".join(f"{sign} {name}" for sign, name in zip(_SIGNS, names, strict=False))
    several = f"  {_SEVERAL} several" * any(_SEVERAL in line for line in field)
    return [
        f"{heading(metric)} against network passes{', both logarithmic' if log else ''}",
        *drawn,
        f"{'':>{wide}} └{'─' * _WIDTH}",
        f"{'':>{wide}}  {low}{high:>{_WIDTH - len(low)}}",
        f"{'':>{wide}}  {keys}{several}",
        "",
    ]


def _places(values: Sequence[float], size: int) -> list[int]:
    """The values as places from 0 to size − 1. Equal values are at the bottom."""
    low, high = min(values), max(values)
    return [round((value - low) / ((high - low) or 1.0) * (size - 1)) for value in values]
