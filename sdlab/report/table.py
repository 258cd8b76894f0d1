"""The table of results: one row per cell, with the settings, the metrics and the costs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sdlab.metrics import Metric
from sdlab.metrics.base import ARROWS
from sdlab.registry import Registry
from sdlab.report.columns import BEST, TIE, Column, Field, Table, Value
from sdlab.report.looks import standings_of
from sdlab.report.statistics import Measured, Standing, extrapolated, interval, standard_error
from sdlab.report.verdict import verdicts
from sdlab.sweep.axes import GRID, GUIDANCE, SAMPLER
from sdlab.sweep.cell import Choice
from sdlab.sweep.document import Until
from sdlab.sweep.plan import Plan
from sdlab.sweep.provenance import AT_ONCE, OTHER_WORK
from sdlab.sweep.store import Row
from sdlab.system.other_work import UNDISTURBED

MARKS = f"{BEST} best, {TIE} not distinguishable from the best at 95 % confidence for all rows at once"
AXES: dict[str, Callable[[Row], str]] = {
    "sampler": lambda row: row.cell.sampler.label,
    "grid": lambda row: row.cell.grid.label,
    "guidance": lambda row: row.cell.guidance.label,
    "budget": lambda row: "" if row.cell.budget is None else str(row.cell.budget),
    "steps": lambda row: str(row.cell.steps),
    "strength": lambda row: "" if row.cell.strength is None else f"{row.cell.strength:g}",
    "images": lambda row: "" if row.cell.images is None else str(row.cell.images),
    "seed": lambda row: "" if row.cell.seed is None else str(row.cell.seed),
}
NUMBERS = ("budget", "steps", "strength", "images", "seed")  # the axes whose columns are aligned to the right
CHOICES = {"sampler": SAMPLER, "grid": GRID, "guidance": GUIDANCE}  # the axes with options
_ABOUT = {
    "network_passes": "passes: network passes per image.",
    "ms_per_pass": "ms/pass: milliseconds of a network pass per image.",
    "network_share": "net %: share of the time spent in the network.",
    "peak_memory": "peak MiB: the most memory that was in use.",
}
DISTURBED = "~"
_WORK = {"network": "the network", "sampler": "the sampler", "decode": "decoding", "metrics": "the metrics"}
_COSTS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "network_passes": ("passes", lambda row: _number(row.network_passes, "{:.4g}")),
    "seconds_per_image": ("s/image", lambda row: _number(row.seconds_per_image, "{:#.3g}")),
    "ms_per_pass": ("ms/pass", lambda row: _number(row.ms_per_pass, "{:#.3g}")),
    "network_share": ("net %", lambda row: _number(100 * row.network_share, "{:.0f}")),
    "peak_memory": ("peak MiB", lambda row: _number(row.peak_memory / 2**20, "{:.0f}")),
}


def make_table(
    plan: Plan,
    rows: Sequence[Row],
    real: Mapping[str, Sequence[float]] = MappingProxyType({}),
    among: Sequence[Row] | None = None,
) -> Table:
    """One row per cell, in the order of `rows`.

    Args:
        plan: the plan of the run.
        rows: the cells that are shown.
        real: metrics to value and standard error on real pictures.
        among: all cells of the run, if `rows` are some of them. The best is that of `rows`, and intervals hold for all.
    """
    among = rows if among is None else among
    metrics = plan.measures
    ranked = {m.name: standings_of(plan, m, rows, real, among) for m in metrics}
    varying = varying_axes(rows)
    settings = [_setting(name, rows, name in varying) for name in AXES if name != "images" or plan.until is None]
    passes, seconds, *costs = (_cost(name, rows) for name in _COSTS)
    values = [
        column
        for metric in metrics
        for column in measured(metric, rows, plan.units, ranked[metric.name], len(plan.looks))
    ]
    status = [
        _column("status", ["ok" if row.ok else "failed" for row in rows], people=False),
        _column("reason", [row.reason for row in rows], people=False),
        _column("key", [row.key for row in rows], people=False),
    ]
    names = [name_of(row, varying) for row in rows]
    caption = _caption(plan, rows, varying, real, len(among))
    caption = (*caption[:2], *verdicts(plan, rows, names, ranked), *caption[2:])
    return Table(
        plan.name,
        (
            *settings,
            *_options(rows),
            *_counts(plan, rows),
            passes,
            *values,
            seconds,
            *_spread(rows),
            *costs,
            *_parts(rows),
            *status,
        ),
        caption,
    )


def _setting(name: str, rows: Sequence[Row], varies: bool) -> Column:
    texts = [AXES[name](row) for row in rows]
    values: list[Value] = [getattr(row.cell, name) for row in rows] if name in NUMBERS else [*texts]
    return Column(name, name, tuple(values), tuple(map(Field, texts)), left=name not in NUMBERS, people=varies)


def _counts(plan: Plan, rows: Sequence[Row]) -> list[Column]:
    """The images of each cell, if they differ."""
    return [] if plan.until is None else [_column("images", [row.images or None for row in rows], people=True)]


def _options(rows: Sequence[Row]) -> list[Column]:
    """The options of samplers, grids and guidance. Programs get those that a cell was given."""
    found = []
    for axis, registry in CHOICES.items():
        choices = [getattr(row.cell, axis) for row in rows]
        complete = [_complete(registry, choice) for choice in choices]
        for key in dict.fromkeys(key for one in complete for key in one):
            column = _column(f"{axis}.{key}", [_scalar(one.get(key)) for one in complete], people=False)
            given = any(key in choice.options for choice in choices)
            found.append(column if given else _hidden(column))
    return found


def _complete(registry: Registry, choice: Choice) -> dict[str, Any]:
    """All options of a choice, or those given if this version of sdlab does not know their values."""
    try:
        return registry.complete(choice.name, choice.options)
    except ValueError:
        return dict(choice.options)


def _hidden(column: Column) -> Column:
    return Column(column.name, column.heading, column.values, column.fields, column.left, people=False, machine=False)


def _scalar(value: Any) -> Value:
    """The value of an option as in TOML if it is more than a number or a text."""
    if value is None or isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, float):
        return _finite(value) if not math.isinf(value) else str(value)
    return json.dumps(value, default=str)


def _cost(name: str, rows: Sequence[Row]) -> Column:
    heading, text = _COSTS[name]
    values = tuple(_finite(getattr(row, name)) for row in rows)
    fields = tuple(Field(text(row), DISTURBED * (name == "seconds_per_image" and disturbed(row))) for row in rows)
    known = name != "peak_memory" or any(value is not None for value in values)  # earlier versions did not measure it
    about = _way_of_timing(rows) if name == "seconds_per_image" else _ABOUT[name]
    return Column(name, heading, values, fields, minor=name != "network_passes", people=known, about=about)


def _spread(rows: Sequence[Row]) -> list[Column]:
    """The interquartile range of the seconds per image for people, and the quartiles for programs."""
    found = [row.times.quartiles for row in rows]
    ranges = [None if one is None else one[1] - one[0] for one in found]
    texts = tuple(Field("–" if one is None else _number(one, "{:.2g}")) for one in ranges)
    known = any(one is not None for one in ranges)
    about = "IQR: interquartile range of s/image."
    iqr = Column("seconds_iqr", "IQR", (*ranges,), texts, minor=True, people=known, about=about)
    lows, highs = ([None if one is None else one[k] for one in found] for k in (0, 1))
    return [iqr, _column("seconds_q1", lows, people=False), _column("seconds_q3", highs, people=False)]


def _parts(rows: Sequence[Row]) -> list[Column]:
    """The seconds per image of each part of the work, and how often they were measured, for programs."""
    found = [row.times.of_parts for row in rows]
    columns = [_column(f"{name}_seconds", [one.get(name) for one in found], people=False) for name in _WORK]
    return [*columns, _column("repetitions", [len(row.times.whole) or None for row in rows], people=False)]


def disturbed(row: Row) -> bool:
    """Whether other programs used much of the processor while the cell ran, so that its times are not facts."""
    share = row.provenance.get(OTHER_WORK)
    return isinstance(share, float | int) and share > UNDISTURBED


def measured(
    metric: Metric,
    rows: Sequence[Measured],
    units: Sequence[int],
    standings: Sequence[Standing | None],
    looks: int = 1,
) -> list[Column]:
    """The column of a metric for people, and those with its errors, intervals and differences for programs.

    `_ci_low` and `_ci_high` are the 95 % interval of the value, for all `looks` together. Differences are from the best
    cell, and their intervals `_low` and `_high` hold for all cells at once. `_extrapolated` is the value for
    infinitely many images.
    """
    fields = tuple(_field(metric, row, units, one) for row, one in zip(rows, standings, strict=True))
    values = tuple(_finite(row.metrics.get(metric.name, math.nan)) for row in rows)
    known = [value is not None for value in values]
    errors = [standard_error(metric, row, units) if ok else None for row, ok in zip(rows, known, strict=True)]
    limits = [interval(metric, row, units, looks) if ok else None for row, ok in zip(rows, known, strict=True)]
    more: dict[str, list[Value]] = {
        "stderr": [None if error is None else _finite(error) for error in errors],
        "ci_low": [None if one is None else _finite(one[0]) for one in limits],
        "ci_high": [None if one is None else _finite(one[1]) for one in limits],
        **({"extrapolated": [extrapolated(metric, row) for row in rows]} if metric.extrapolates else {}),
        "difference": [None if one is None else one.difference for one in standings],
        "low": [None if one is None else _finite(one.low) for one in standings],
        "high": [None if one is None else _finite(one.high) for one in standings],
        "standing": [_word(one) for one in standings],
    }
    return [
        Column(metric.name, heading(metric), values, fields),
        *(_column(f"{metric.name}_{suffix}", values, people=False) for suffix, values in more.items()),
    ]


def _word(standing: Standing | None) -> Value:
    if standing is None:
        return None
    return "best" if standing.best else "tie" if standing.ties else "behind"


def heading(metric: Metric) -> str:
    """`"FID (lab) ↓"`."""
    return f"{metric.label} {ARROWS[metric.better]}"


def legend(metrics: Sequence[Metric]) -> str:
    """What the errors and the arrows in the headings mean."""
    used = [better for better in ARROWS if any(metric.better == better for metric in metrics)]
    return ", ".join(["± one standard error", *(f"{ARROWS[better]} {better} is better" for better in used)]) + "."


def _column(name: str, values: Sequence[Value], people: bool) -> Column:
    left = any(isinstance(value, str) for value in values)
    return Column(name, name, tuple(values), tuple(Field(plain(value)) for value in values), left, people=people)


def plain(value: Value) -> str:
    """A value as text, with six digits of a number and a dash for a missing one."""
    return "–" if value is None else value if isinstance(value, str) else f"{value:g}"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def varying_axes(rows: Sequence[Row]) -> list[str]:
    """The sampler, and the other settings that differ between rows."""
    return [name for name, text in AXES.items() if len({text(row) for row in rows}) > 1 or name == "sampler"]


def name_of(row: Row, varying: Sequence[str]) -> str:
    """The name of a row in sentences: `"ddim · cfg scale=3 · 10 steps"`, of the settings that differ between rows."""
    words = {"steps": "{} steps", "budget": "{} passes", "images": "{} images", "seed": "seed {}"}
    settings = [(name, AXES[name](row)) for name in varying]
    return " · ".join(words.get(name, "{}").format(text) for name, text in settings if text)


def _field(metric: Metric, row: Measured, units: Sequence[int], standing: Standing | None) -> Field:
    if not math.isfinite(row.metrics.get(metric.name, math.nan)):
        return Field("–" if row.ok else "failed")
    mark = "" if standing is None else BEST if standing.best else TIE if standing.ties else ""
    error = standard_error(metric, row, units)
    return Field(metric.text(row.metrics[metric.name]), mark, _error_text(metric, error))


def _error_text(metric: Metric, error: float | None) -> str:
    """`"±.20"`."""
    return f"±{metric.error_text(error)}".replace("±0.", "±.") if error else ""


def _of_real(plan: Plan, metric: Metric, value: float, error: float) -> str:
    return metric.text(value) + _error_text(metric, metric.error(error, plan.images))


def _way_of_timing(rows: Sequence[Row]) -> str:
    """How the seconds per image were measured, for people."""
    timed = [row for row in rows if row.times.whole]
    rounds = {(row.times.rounds, len(row.times.whole) * bool(row.times.rounds)) for row in timed}
    began, count = next(iter(rounds), ("", 0))
    if len(rounds) > 1:
        way = "s/image: medians, and not all cells were timed in the same rounds."
    elif began:
        way = f"s/image: medians of {count} rounds in which all cells were timed in turn, after one to warm up."
    elif timed:
        how = (
            "several cells ran at once"
            if any(AT_ONCE in row.provenance for row in timed)
            else "cells were timed one after the other"
        )
        way = f"s/image: medians over the batches of a cell; {how}."
    else:
        way = "s/image: seconds per image."
    if any(map(disturbed, rows)):
        way += (
            f" {DISTURBED} other programs used more than {UNDISTURBED:.0%} of the processor while the cell ran; do not "
            "compare its times."
        )
    return way


def _parts_of_time(rows: Sequence[Row]) -> list[str]:
    """What took how much of the time over all cells."""
    timed = [row for row in rows if row.times.whole]
    spent = {name: sum(row.times.of_parts[name] for row in timed) for name in _WORK}
    if not (whole := sum(spent.values())):
        return []
    shares = ", ".join(f"{_WORK[name]} {_percent(value / whole)}" for name, value in spent.items())
    return [f"Shares of the time over all cells: {shares}."]


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 or not share else "<1%"


def _real_pictures(plan: Plan) -> str:
    if plan.metric_files.reference is not None:
        return "All real pictures of the reference"
    same_number = plan.until is None and plan.fewest == plan.images
    return f"{'The same number of' if same_number else plan.images} real renders, each with its own caption"


def _caption(
    plan: Plan, rows: Sequence[Row], varying: Sequence[str], real: Mapping[str, Sequence[float]], run: int
) -> tuple[str, ...]:
    same = [f"{name} {text(rows[0])}" for name, text in AXES.items() if rows and name not in varying and text(rows[0])]
    lines = [
        ", ".join(
            [
                *(f"model {plan.model}", *same, f"{plan.count} images per cell"),
                *[f"{len(plan.prompts)} prompts"] * bool(plan.prompts),
                f"{plan.seeds}, {plan.dtype} on {plan.device}.",
            ]
        ),
        *([text] if (text := _reading(plan)) else []),
    ]
    if plan.until is not None:
        lines.append(_stopping(plan, plan.until))
    if plan.pictures is not None:
        lines.append(f"Image-to-image from {_origin(plan)}; strength 0 keeps the picture, 1 ignores it.")
    lines += _parts_of_time(rows)
    if known := [
        f"{info.label} {_of_real(plan, info, *real[info.name])}" for info in plan.measures if info.name in real
    ]:
        lines.append(f"{_real_pictures(plan)}: {', '.join(known)}.")
    lines += [f"{one.label}: {text}" for one in plan.measures if (text := one.caution(plan.metric_files, plan.fewest))]
    if len(rows) < run:
        lines.append(f"{len(rows)} of the {run} cells of the run are shown. {BEST} is the best of those shown.")
    if run < len(plan.cells):
        lines.append(f"{run} of {len(plan.cells)} cells have been run. The same sweep command runs the rest.")
    return (*lines, *(f"failed: {row.cell.label}: {row.reason}" for row in rows if not row.ok))


def _stopping(plan: Plan, until: Until) -> str:
    label = next((metric.label for metric in plan.measures if metric.name == until.metric), until.metric)
    looks = ", ".join(map(str, until.looks))
    return (
        f"A cell got more images until it was behind in {label} or tied to within ±{until.until:g}, judged at {looks} "
        "images. Cells are compared on the images that both have. Intervals hold for all these looks together."
    )


def _reading(plan: Plan) -> str:
    """The legend of the metric columns; empty without metrics."""
    if not plan.metrics:
        return ""
    return f"{MARKS} ({_basis(plan)}). {legend(plan.measures)}"


def _origin(plan: Plan) -> str:
    assert plan.pictures is not None
    files = [file for file in plan.pictures.files if file is not None]
    if plan.pictures.set is not None:
        return f"the pictures of set {plan.pictures.set}, one per prompt"
    if len(files) < len(plan.prompts):
        return f"{', '.join(files)} with {len(files)} of {len(plan.prompts)} prompts; the others are text-to-image"
    return ", ".join(dict.fromkeys(files))


def _basis(plan: Plan) -> str:
    repeated = len(set(plan.units)) < len(plan.units)
    return f"differences paired {'prompt by prompt' if repeated else 'image by image'}"


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else form.format(value).rstrip(".")
