"""The plot of a Pareto front: all trials, and the front measured on images of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from sdlab.metrics import Metric
from sdlab.report.figures import literal_text, log_axis, save, tidy
from sdlab.report.statistics import interval
from sdlab.sweep.store import Row


@literal_text
def plot_front(
    path: Path, metric: Metric, name: str, trials: Sequence[Row], front: Sequence[Row], units: Sequence[int]
) -> None:
    """The metric against network passes: each trial on the first half of the images, the front on the second.

    Bars are 95 % intervals of the second half.

    Raises:
        RunError: the file cannot be written.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    x, y = [row.network_passes for row in trials], [row.metrics[metric.name] for row in trials]
    axes.plot(x, y, "o", color="0.7", markersize=4, label="trials, first half of the images")
    done = [row for row in front if row.ok]
    values = [row.metrics[metric.name] for row in done]
    ends = [interval(metric, row, units) or (value, value) for row, value in zip(done, values, strict=True)]
    bars = [
        [max(0.0, value - low) for value, (low, _) in zip(values, ends, strict=True)],
        [max(0.0, high - value) for value, (_, high) in zip(values, ends, strict=True)],
    ]
    passes = [row.network_passes for row in done]
    axes.errorbar(passes, values, yerr=bars, fmt="s-", color="C0", markersize=5, capsize=2, label="front, second half")
    axes.set_title(f"{name}: the Pareto front", loc="left", fontsize=12)
    axes.set_xlabel("network passes per image")
    axes.set_ylabel(f"{metric.label}, {metric.better} is better")
    log_axis(axes.xaxis)
    if metric.powers and min([*y, *values], default=0.0) > 0:
        log_axis(axes.yaxis)
    tidy(axes)
    axes.legend(frameon=False)
    save(figure, path, dpi=130)
