"""The choice of plots for a run. Nothing is drawn here, so an up-to-date report needs no plotting library."""

from __future__ import annotations

from collections.abc import Sequence

from sdlab.metrics import Metric
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row

_LINES = 12  # more cannot be distinguished in one plot
_UNGUIDED = "none"
_CURVE = 4  # scales that show where a curve has its best value
Pair = tuple[Metric, Metric]  # a metric of prompt following, and one of resemblance to the input

_PROMPT = ("prompt_accuracy", "changes_made", "clip_score")
_INPUT = ("psnr", "ssim", "feature_distance")


def trade_offs(plan: Plan) -> list[Pair]:
    """The pairs to plot if strength varies: each prompt metric with each resemblance metric."""
    if len({cell.strength for cell in plan.cells}) < 2:
        return []
    gains = [info for info in plan.measures if info.name in _PROMPT]
    return [(gain, loss) for gain in gains for loss in plan.measures if loss.name in _INPUT]


def on_log_axis(metric: Metric, values: Sequence[float]) -> bool:
    """Whether the values of a metric are shown on a logarithmic axis.

    Distances can differ by orders of magnitude. Means over images are easier to read on a linear scale.
    """
    return (
        (metric.powers or not metric.per_image) and bool(values) and min(values) > 0 and max(values) > 20 * min(values)
    )


def varies_in_scale(rows: Sequence[Row]) -> bool:
    """Whether the rows differ in guidance only by the scale of one strategy, of which there are enough for a curve."""
    guided = [row.cell.guidance for row in rows if row.cell.guidance.name != _UNGUIDED]
    others = [(one.name, {**one.options, "scale": None}) for one in guided]
    scaled = all(isinstance(one.options.get("scale"), int | float) for one in guided)
    alike = all(one == others[0] for one in others)
    return scaled and alike and len({scale_of(row) for row in rows}) >= _CURVE


def scale_of(row: Row) -> float:
    """The guidance scale of a row, 1 without guidance."""
    return float(row.cell.guidance.options.get("scale", 1.0))


def is_crowded(rows: Sequence[Row]) -> bool:
    """Whether a plot with one line per sampler, grid and guidance would have too many lines."""
    grids = several_grids(rows)
    if varies_in_scale(rows):
        return len({(name_of(row, grids), row.cell.steps) for row in rows}) > _LINES
    strengths = {row.cell.strength for row in rows}
    alone = len(strengths) < 2 and len({row.cell.images for row in rows}) < 2
    return alone and len({(name_of(row, grids), row.cell.guidance.label) for row in rows}) > _LINES


def several_grids(rows: Sequence[Row]) -> bool:
    """Whether the grid tells rows apart."""
    return len({row.cell.grid.label for row in rows}) > 1


def name_of(row: Row, grids: bool) -> str:
    """The sampler of a row, and its grid with `grids`."""
    return row.cell.sampler.label + (f", {row.cell.grid.label}" if grids else "")


def spread(length: int, count: int) -> Sequence[int]:
    """At most `count` ≥ 2 indices of a sequence, with both ends and evenly spread."""
    if length <= count:
        return range(length)
    return [round(i * (length - 1) / (count - 1)) for i in range(count)]
