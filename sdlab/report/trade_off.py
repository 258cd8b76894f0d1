"""What image-to-image pays for following the prompt: resemblance to the input against it, strength by strength."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from sdlab.metrics import MetricInfo
from sdlab.report.plots import lines
from sdlab.report.statistics import standard_error
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row
from sdlab.system.files import replacing

Pair = tuple[MetricInfo, MetricInfo]  # what is bought, and what it is paid with

_BOUGHT = ("prompt_accuracy", "changes_made", "clip_score")
_PAID = ("psnr", "ssim", "feature_distance")


def trade_offs(plan: Plan) -> list[Pair]:
    """What is worth a plot when strength varies: each metric of the prompt against each of resemblance."""
    if len({cell.strength for cell in plan.cells}) < 2:
        return []
    bought = [info for info in plan.measures if info.name in _BOUGHT]
    return [(one, paid) for one in bought for paid in plan.measures if paid.name in _PAID]


def plot_trade_off(path: Path, plan: Plan, bought: MetricInfo, paid: MetricInfo, rows: Sequence[Row]) -> None:
    """One line a sampler and guidance, from its lowest strength to its highest, each point with its strength.

    The upper right is best on both counts. Bars are ± one standard error.

    Raises:
        RunError: the file cannot be written.
    """
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.add_subplot()
    series = lines([row for row in rows if paid.name in row.metrics], bought, steps=True)
    palette = colormaps["tab10" if len(series) <= 10 else "tab20"]
    for i, ((name, guidance), line) in enumerate(series.items()):
        line = sorted(line, key=lambda row: row.cell.strength or 0.0)
        x, y = ([row.metrics[info.name] for row in line] for info in (paid, bought))
        axes.errorbar(
            x,
            y,
            xerr=[standard_error(paid, row) or 0.0 for row in line],
            yerr=[standard_error(bought, row) or 0.0 for row in line],
            color=palette(i % palette.N),
            marker="o",
            markersize=5,
            linewidth=1.6,
            elinewidth=1,
            label=f"{name}, {guidance}",
        )
        for row, *place in zip(line, x, y, strict=True):
            text = f"{row.cell.strength or 0.0:g}"
            axes.annotate(text, place, xytext=(5, 5), textcoords="offset points", fontsize=8, color="0.3")  # type: ignore[arg-type]
    if paid.better == "lower":
        axes.invert_xaxis()  # so that the upper right is best
    axes.set_title(f"{plan.name}: {bought.label} for {paid.label}, by strength", loc="left", fontsize=12)
    axes.set_xlabel(f"{paid.label}, {paid.better} is better")
    axes.set_ylabel(f"{bought.label}, {bought.better} is better")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if series:
        figure.legend(loc="outside right upper", frameon=False, alignment="left")
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=150)
