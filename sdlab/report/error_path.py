"""The error along σ: the distance of each cell to the converged flow at the levels that it passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from sdlab.report.error_levels import level_ticks, place_of_zero
from sdlab.report.figures import literal_text, log_axis, save, tidy
from sdlab.report.shown import name_of, several_grids, spread
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row

_STYLES = ("-", "--", ":", "-.")
_PANELS, _COLUMNS, _LINES = 6, 3, 12


@literal_text
def plot_error_path(path: Path, plan: Plan, rows: Sequence[Row]) -> None:
    """One panel per number of steps or budget, and one line per sampler (its colour) and guidance (its stroke).

    The noise level falls to the right, and the last point, at σ = 0 on most grids, is the reference error. A panel with
    many cells has those that end nearest to the flow.

    Raises:
        RunError: the file cannot be written.
    """
    rows = [row for row in rows if row.error_path.size]
    panels = _panels(rows)
    drawn = [row for some in panels.values() for row in some]
    grids = several_grids(rows)
    names = list(dict.fromkeys(name_of(row, grids) for row in drawn))
    guidances = list(dict.fromkeys(row.cell.guidance.label for row in drawn))
    palette = colormaps["tab10" if len(names) <= 10 else "tab20"]
    colour = {name: palette(i % palette.N) for i, name in enumerate(names)}
    stroke: dict[str, Any] = {guidance: _STYLES[i % len(_STYLES)] for i, guidance in enumerate(guidances)}
    columns = min(_COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(2.4 + 3.6 * columns, 0.9 + 3.1 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    zero = place_of_zero([row.error_path[0] for row in drawn])
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(len(panels) - columns, 0) : len(panels)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    for axes, (title, some) in zip(grid.flat, panels.items(), strict=False):
        for row in some:
            levels, distances = row.error_path
            axes.plot(
                [level or zero for level in levels],
                distances,
                color=colour[name_of(row, grids)],
                linestyle=stroke[row.cell.guidance.label],
                marker=".",
                markersize=5,
                linewidth=1.4,
            )
        axes.set_title(title, loc="left", fontsize=10)
        _tidy(axes, zero, drawn)
    figure.suptitle(f"{plan.name}: error along σ", x=0.01, ha="left", fontsize=12)
    figure.supxlabel("noise level σ after each step", fontsize=10)
    figure.supylabel("distance to the converged flow", fontsize=10)
    samplers = [Line2D([], [], color=colour[name], linewidth=3, label=name) for name in names]
    strokes = [Line2D([], [], color="0.3", linestyle=stroke[one], label=one) for one in guidances]
    figure.legend(handles=samplers, title="sampler", loc="outside right upper", frameon=False, alignment="left")
    if len(guidances) > 1:
        where: dict[str, Any] = {"loc": "outside right lower", "alignment": "left", "frameon": False}
        figure.legend(handles=strokes, title="guidance", handlelength=3, **where)
    save(figure, path, dpi=150)


def _panels(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each panel under its title: budgets of passes, then numbers of steps."""
    found: dict[tuple[bool, int, str], list[Row]] = {}
    for row in rows:
        steps, budget = row.cell.steps, row.cell.budget
        key = (True, steps, f"{steps} steps") if budget is None else (False, budget, f"{budget} passes")
        found.setdefault(key, []).append(row)
    keys = sorted(found)
    panels: dict[str, list[Row]] = {}
    for key in (keys[i] for i in spread(len(keys), _PANELS)):
        some, title = found[key], key[2]
        nearest = sorted(some, key=lambda row: float(row.error_path[1, -1]))[:_LINES]
        kept = [row for row in some if any(row is one for one in nearest)]
        panels[title if len(kept) == len(some) else f"{title}: the nearest {len(kept)} of {len(some)}"] = kept
    return panels


def _tidy(axes: Axes, zero: float, rows: Sequence[Row]) -> None:
    if all((row.error_path[1] > 0).all() for row in rows):
        log_axis(axes.yaxis)
    ticks = level_ticks([row.error_path[0] for row in rows])
    log_axis(axes.xaxis, ticks)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if math.isclose(value, zero) else f"{value:g}"))
    if not axes.xaxis_inverted():  # shared by all panels
        axes.invert_xaxis()
    tidy(axes)
