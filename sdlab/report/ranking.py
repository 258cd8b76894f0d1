"""Rankings at equal cost: cells sorted by a metric, one panel per budget or number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sdlab.metrics import Metric
from sdlab.report.columns import BEST, TIE
from sdlab.report.figures import literal_text, log_axis, save, tidy
from sdlab.report.looks import standings_of
from sdlab.report.shown import name_of, several_grids, spread
from sdlab.report.statistics import standard_error
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row

_AHEAD, _BEHIND = "#1b6ca8", "0.55"
_ACROSS = 6  # panels beside each other
_PANELS = 12
_MOST = 40  # rows of a panel
_WIDTH = 4.6  # of a panel in inches, half of which is for names of usual length
_LETTER = 0.062  # width of a letter of a name in inches


class Panel(NamedTuple):
    """Rows compared with each other, with one budget or number of steps."""

    title: str
    budget: int | None  # network passes per image
    rows: list[Row]


class _Varied(NamedTuple):
    """In what the rows of a plot differ."""

    grids: bool
    guidance: bool
    methods: bool  # sampler or grid


def panels(rows: Sequence[Row]) -> list[Panel]:
    """One panel per budget of passes, or per number of steps if there are no budgets.

    Among cells with budgets, a cell with fixed steps goes to the smallest budget that its passes fit in.
    """
    budgets = sorted({row.cell.budget for row in rows if row.cell.budget is not None})
    if not budgets:
        numbers = sorted({row.cell.steps for row in rows})
        return [Panel(f"{n} step{'s' * (n != 1)}", None, [row for row in rows if row.cell.steps == n]) for n in numbers]
    found = [Panel(f"{budget} pass{'es' * (budget != 1)}", budget, []) for budget in budgets]
    for row in rows:
        wanted = row.cell.budget or min((budget for budget in budgets if row.network_passes <= budget), default=None)
        if wanted is not None:
            found[budgets.index(wanted)].rows.append(row)
    return found


@literal_text
def plot_ranking(path: Path, plan: Plan, metric: Metric, rows: Sequence[Row], real: float | None = None) -> None:
    """One dot per cell with ± one standard error, the best on top; filled if it ties with the best of its panel.

    Of a panel with very many cells, the best are drawn, and of very many panels some that are evenly spread. The value
    on `real` pictures, if known, is in the title, because it may be far from all dots.

    Raises:
        RunError: the file cannot be written.
    """
    measured = [row for row in rows if math.isfinite(row.metrics.get(metric.name, math.nan))]
    found = [panel for panel in panels(measured) if panel.rows]
    shown = [found[i] for i in spread(len(found), _PANELS)]
    longest = min(_MOST, max((len(panel.rows) for panel in shown), default=1))
    across = min(_ACROSS, max(len(shown), 1))
    down = max(1, math.ceil(len(shown) / across))
    varied = _Varied(
        grids=several_grids(rows),
        guidance=len({row.cell.guidance.label for row in rows}) > 1,
        methods=len({(row.cell.sampler.label, row.cell.grid.label) for row in rows}) > 1,
    )
    letters = max((len(_label(panel, varied, row)) for panel in shown for row in panel.rows), default=0)
    width = max(_WIDTH, _WIDTH / 2 + _LETTER * letters)
    figure = Figure(figsize=(max(width * across, 6), 1.4 + (0.5 + 0.19 * longest) * down), layout="constrained")
    panes = figure.subplots(down, across, squeeze=False).flat
    for axes in panes[len(shown) :]:
        axes.set_axis_off()
    for axes, panel in zip(panes, shown, strict=False):
        _draw(axes, plan, metric, panel, partial(_label, panel, varied), real)
        axes.set_ylim(longest - 0.5, -0.8)  # the best on top, and the same row spacing in all panels
    title = f"{plan.name}: {metric.label}, {metric.better} is better"
    separator = "; " if len(shown) > 1 else "\n"  # a single panel is narrow
    if len(shown) < len(found):
        title += f"{separator}{len(shown)} of {len(found)} panels"
    if real is not None:
        title += f"{separator}real pictures: {metric.text(real)}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    columns = 3 if len(shown) > 1 else 1
    figure.legend(handles=_key(), loc="outside lower left", ncols=columns, frameon=False, fontsize=8)
    save(figure, path, dpi=120)


def _draw(
    axes: Axes, plan: Plan, metric: Metric, panel: Panel, label: Callable[[Row], str], real: float | None
) -> None:
    placed = list(
        zip(
            panel.rows,
            standings_of(plan, metric, panel.rows, {metric.name: [real]} if real is not None else {}),
            strict=True,
        )
    )
    placed.sort(key=lambda one: _behind(metric, one[0], real))
    cut, placed = len(placed), placed[:_MOST]
    labels, ahead = list[str](), list[bool]()
    for row, standing in placed:
        ahead.append(standing is not None and (standing.best or standing.ties))
        mark = " " if standing is None or not ahead[-1] else BEST if standing.best else TIE
        labels.append(f"{label(row)} {mark}")
    for is_ahead, colour, face in ((True, _AHEAD, _AHEAD), (False, _BEHIND, "white")):
        places = [place for place, one in enumerate(ahead) if one == is_ahead]
        if not places:
            continue
        axes.errorbar(
            [placed[place][0].metrics[metric.name] for place in places],
            places,
            xerr=[standard_error(metric, placed[place][0], plan.units) or 0.0 for place in places],
            color=colour,
            linestyle="none",
            marker="o",
            markerfacecolor=face,
            markersize=4.5,
            elinewidth=1,
        )
    title = panel.title if cut == len(placed) else f"{panel.title}: the best {len(placed)} of {cut}"
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_yticks(range(len(labels)), labels, fontsize=7.5)
    values = [row.metrics[metric.name] for row, _ in placed]
    if not metric.per_image and min(values) > 0 and max(values) > 5 * min(values):
        log_axis(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))  # more labels would touch in a narrow panel
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    tidy(axes, hidden=("top", "right", "left"))


def _behind(metric: Metric, row: Row, real: float | None) -> float:
    """A key that sorts the best row first."""
    value = row.metrics[metric.name]
    return -value if metric.better == "higher" else value if metric.better == "lower" else abs(value - (real or 0.0))


def _key() -> list[Line2D]:
    def dot(face: str, edge: str, label: str) -> Line2D:
        return Line2D([], [], linestyle="", marker="o", color=edge, markerfacecolor=face, markersize=5, label=label)

    return [
        dot(_AHEAD, _AHEAD, f"best ({BEST}), or tied with it at 95 % confidence ({TIE})"),
        dot("white", _BEHIND, "behind"),
        Line2D([], [], linestyle="", label="bars: ± one standard error; in brackets: passes, if below the budget"),
    ]


def _label(panel: Panel, varied: _Varied, row: Row) -> str:
    """The label that distinguishes a row within its panel, with its passes if below the budget."""
    guidance, name = row.cell.guidance, name_of(row, varied.grids)
    if varied.guidance and not varied.methods:
        name = guidance.label if guidance.name != "none" else "no guidance"
    elif varied.guidance and guidance.name != "none":
        name += f", {guidance.label}"
    short = panel.budget is not None and row.network_passes < panel.budget
    return f"{name} ({row.network_passes:.3g})" if short else name
