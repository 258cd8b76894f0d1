"""The image-to-image trade-off between prompt following and resemblance to the input, over strength."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from sdlab.metrics import Metric
from sdlab.report.figures import literal_text, save, tidy
from sdlab.report.plots import lines
from sdlab.report.statistics import standard_error
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row


@literal_text
def plot_trade_off(path: Path, plan: Plan, gain: Metric, loss: Metric, rows: Sequence[Row]) -> None:
    """`gain` against `loss`: one line per sampler and guidance through its strengths, which label the points.

    The upper right is best in both metrics. Bars are ± one standard error.

    Raises:
        RunError: the file cannot be written.
    """
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.add_subplot()
    series = lines([row for row in rows if loss.name in row.metrics], gain, steps=True)
    palette = colormaps["tab10" if len(series) <= 10 else "tab20"]
    for i, ((name, guidance), line) in enumerate(series.items()):
        line = sorted(line, key=lambda row: row.cell.strength or 0.0)
        x, y = ([row.metrics[info.name] for row in line] for info in (loss, gain))
        axes.errorbar(
            x,
            y,
            xerr=[standard_error(loss, row, plan.units) or 0.0 for row in line],
            yerr=[standard_error(gain, row, plan.units) or 0.0 for row in line],
            color=palette(i % palette.N),
            marker="o",
            markersize=5,
            linewidth=1.6,
            elinewidth=1,
            label=f"{name}, {'no guidance' if guidance == 'none' else guidance}",
        )
        # Labels of every other line are on its other side, since points of two lines can be near each other.
        offset, sides = ((5, 5), ("left", "bottom")) if i % 2 == 0 else ((-5, -5), ("right", "top"))
        for row, *place in zip(line, x, y, strict=True):
            axes.annotate(
                f"{row.cell.strength or 0.0:g}",
                place,  # type: ignore[arg-type]
                xytext=offset,
                textcoords="offset points",
                fontsize=8,
                color="0.3",
                ha=sides[0],
                va=sides[1],
            )
    if loss.better == "lower":
        axes.invert_xaxis()  # so that the upper right is best
    axes.set_title(f"{plan.name}: {gain.label} against {loss.label}, by strength", loc="left", fontsize=12)
    axes.set_xlabel(f"{loss.label}, {loss.better} is better")
    axes.set_ylabel(f"{gain.label}, {gain.better} is better")
    tidy(axes)
    if series:
        figure.legend(loc="outside right upper", frameon=False, alignment="left")
    save(figure, path, dpi=150)
