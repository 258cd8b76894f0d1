"""Loss curves as a picture: one panel per column of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sdlab.system.files import replacing

_COLUMNS = 3
_MOST = 1000  # points per curve; more are averaged in equal groups
_SPAN = 10  # ratio of largest to smallest value from which an axis is logarithmic


def draw_curves(path: Path, series: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> None:
    """Draw each named series of (steps, values) in a panel of its own. Values that are not finite are left out.

    Raises:
        RunError: the file cannot be written.
    """
    rows = ceil(len(series) / _COLUMNS)
    columns = min(len(series), _COLUMNS)
    every = [step for steps, _ in series.values() for step in steps]
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows), layout="constrained")
    for i, (name, (steps, values)) in enumerate(series.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        x, y = np.array(steps, dtype=float), np.array(values, dtype=float)
        x, y = x[np.isfinite(y)], y[np.isfinite(y)]
        groups = ceil(len(y) / _MOST) or 1
        axes.plot(_means(x, groups), _means(y, groups), color="tab:blue", alpha=0.35, linewidth=0.8)
        smooth = ceil(len(y) / 50) or 1
        axes.plot(_means(x, smooth), _means(y, smooth), color="tab:blue", linewidth=1.6)
        if len(y) and y.min() > 0 and y.max() > _SPAN * y.min():
            axes.set_yscale("log")
        axes.set_xlim(min(every), max(max(every), min(every) + 1))
        axes.set_title(name.replace("_", " "), fontsize=10)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("step", fontsize=9)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=100)


def _means(values: np.ndarray, size: int) -> np.ndarray:
    """The means of consecutive groups of `size` values; the last group may be smaller."""
    starts = np.arange(0, len(values), size)
    return np.add.reduceat(values, starts) / np.diff([*starts, len(values)]) if len(values) else values
