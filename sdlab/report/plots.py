"""Plots of each metric against network passes, or against strength, the number of images or the guidance scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sdlab.metrics import Metric
from sdlab.report.figures import literal_text, log_axis, save, tidy
from sdlab.report.shown import on_log_axis, scale_of, varies_in_scale
from sdlab.report.statistics import extrapolated, standard_error
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row

_STYLES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
_USUAL = 24  # letters of a name in the legend for which there is room
_LETTER = 0.075  # width of one more in inches
_MARKERS = ("o", "s", "^", "D", "v", "P")


@literal_text
def plot_metric(path: Path, plan: Plan, metric: Metric, rows: Sequence[Row], real: float | None = None) -> None:
    """One line per sampler (its colour) and guidance (its stroke and marker), with bars of ± one standard error.

    A dotted line shows the value on `real` pictures, if known. Points of different samplers are shifted slightly
    sideways, so that equal values stay visible. Against the number of images, hollow points are the values extrapolated
    to infinitely many. Runs that differ in their seeds are points without lines and bars: they show their own scatter.

    Raises:
        RunError: the file cannot be written.
    """
    across = _across(rows)
    series = lines(rows, metric, across is not _PASSES, across is not _SCALE)
    runs = len({row.cell.seed for row in rows}) > 1
    names = list(dict.fromkeys(name for name, _ in series))
    guidances = list(dict.fromkeys(guidance for _, guidance in series))
    palette = colormaps["tab10" if len(names) <= 10 else "tab20"]
    colour = {name: palette(i % palette.N) for i, name in enumerate(names)}
    stroke: dict[str, dict[str, Any]] = {
        guidance: {"linestyle": _STYLES[i % len(_STYLES)], "marker": _MARKERS[i % len(_MARKERS)]}
        for i, guidance in enumerate(guidances)
    }

    longest = max(map(len, (*names, *guidances)), default=0)
    figure = Figure(figsize=(9 + _LETTER * max(0, longest - _USUAL), 5.2), layout="constrained")
    axes = figure.add_subplot()
    for (name, guidance), line in series.items():
        line = sorted(line, key=across.of)
        aside = names.index(name) - (len(names) - 1) / 2
        axes.errorbar(
            [across.beside(across.of(row), aside) for row in line],
            [row.metrics[metric.name] for row in line],
            yerr=None if runs else [standard_error(metric, row, plan.units) or 0.0 for row in line],
            color=colour[name],
            **(stroke[guidance] | ({"linestyle": "none"} if runs else {})),
            markersize=5,
            linewidth=1.6,
            elinewidth=1,
            capsize=2,
            alpha=0.9,
        )
        limits = [(across.of(row), limit) for row in line if (limit := extrapolated(metric, row)) is not None]
        if across is _IMAGES and limits:
            axes.plot(*zip(*limits, strict=True), color=colour[name], markerfacecolor="white", **stroke[guidance])
    if real is not None:
        axes.axhline(real, color="0.4", linestyle=(0, (1, 2)), linewidth=1.2)
        inside = axes.get_yaxis_transform()
        axes.text(0.995, real, "real pictures", color="0.4", ha="right", va="bottom", fontsize=9, transform=inside)
    _label(axes, plan, metric, [row for line in series.values() for row in line], across)
    samplers = [Line2D([], [], color=colour[name], linewidth=3, label=name) for name in names]
    strokes = [Line2D([], [], color="0.3", label=guidance, **stroke[guidance]) for guidance in guidances]
    if across is _IMAGES and metric.extrapolates:
        samplers.append(Line2D([], [], color="0.3", marker="o", markerfacecolor="white", label="extrapolated"))
    figure.legend(handles=samplers, title="sampler", loc="outside right upper", frameon=False, alignment="left")
    figure.legend(
        handles=strokes, title="guidance", loc="outside right lower", frameon=False, alignment="left", handlelength=3
    )
    save(figure, path, dpi=150)


@dataclass(frozen=True)
class _Across:
    """The horizontal axis of a plot."""

    label: str
    of: Callable[[Row], float]
    beside: Callable[[float, float], float]  # a value shifted sideways by a number of steps
    log: bool


_PASSES = _Across("network passes per image", lambda row: row.network_passes, lambda x, k: x * 1.015**k, True)
_STRENGTH = _Across("strength", lambda row: row.cell.strength or 0.0, lambda x, k: x + 0.004 * k, False)
_SCALE = _Across("guidance scale (1: unguided)", scale_of, lambda x, k: x + 0.02 * k, False)
_IMAGES = _Across("images", lambda row: float(row.cell.images or 0), lambda x, k: x * 1.015**k, True)


def _across(rows: Sequence[Row]) -> _Across:
    if len({row.cell.images for row in rows}) > 1:
        return _IMAGES
    if varies_in_scale(rows):
        return _SCALE
    return _STRENGTH if len({row.cell.strength for row in rows}) > 1 else _PASSES


def lines(rows: Sequence[Row], metric: Metric, steps: bool, scales: bool = True) -> dict[tuple[str, str], list[Row]]:
    """The rows with a value, grouped into lines: by sampler (with the grid, and the steps if `steps`) and guidance.

    Without `scales`, all scales of guidance are in one line.
    """
    grids, steps = len({row.cell.grid.label for row in rows}) > 1, steps and len({row.cell.steps for row in rows}) > 1
    strategy = max((row.cell.guidance for row in rows), key=lambda one: len(one.options)).name if rows else ""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if math.isfinite(row.metrics.get(metric.name, math.nan)):
            cell = row.cell
            parts = [cell.sampler.label, *[cell.grid.label] * grids, *[f"{cell.steps} steps"] * steps]
            found.setdefault((", ".join(parts), cell.guidance.label if scales else strategy), []).append(row)
    return found


def _label(axes: Axes, plan: Plan, metric: Metric, rows: Sequence[Row], across: _Across) -> None:
    axes.set_title(f"{plan.name}: {metric.label}", loc="left", fontsize=12)
    axes.set_xlabel(across.label)
    axes.set_ylabel(f"{metric.label}, {metric.better} is better")
    if across.log and all(across.of(row) > 0 for row in rows):
        log_axis(axes.xaxis, {across.of(row) for row in rows})
    values = [row.metrics[metric.name] for row in rows]
    if on_log_axis(metric, values):
        log_axis(axes.yaxis)
    tidy(axes)
