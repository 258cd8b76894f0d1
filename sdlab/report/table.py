"""The table of results, for the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import html
import io
import itertools
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rich import box
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from sdlab.metrics import Metric
from sdlab.report.statistics import Standing, extrapolated, interval, standard_error, standings
from sdlab.report.verdict import verdicts
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row
from sdlab.system.text import shown

BEST, TIE = "★", "≈"
_MARKS = f"{BEST} best, {TIE} not distinguishable from the best at 95 % confidence for all rows at once"
AXES: dict[str, Callable[[Row], str]] = {
    "sampler": lambda row: row.cell.sampler.label,
    "grid": lambda row: row.cell.grid.label,
    "guidance": lambda row: row.cell.guidance.label,
    "budget": lambda row: "" if row.cell.budget is None else str(row.cell.budget),
    "steps": lambda row: str(row.cell.steps),
    "strength": lambda row: "" if row.cell.strength is None else f"{row.cell.strength:g}",
}
_SHORT, _WIDEST = 24, 60  # characters of a column: up to these it is never folded, and always folded
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
NUMBERS = ("budget", "steps", "strength")  # the axes whose columns are aligned to the right
_COSTS: dict[str, Callable[[Row], str]] = {
    "passes": lambda row: _number(row.network_passes, "{:.4g}"),
    "s/image": lambda row: _number(row.seconds_per_image, "{:#.3g}"),
    "ms/pass": lambda row: _number(row.ms_per_pass, "{:#.3g}"),
    "net %": lambda row: _number(100 * row.network_share, "{:.0f}"),
}


@dataclass(frozen=True)
class Field:
    """One field of a table. `mark` is a star, a tie sign or empty."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the settings that differ between rows. The caption has the shared settings and the legend."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Field, ...], ...]
    caption: tuple[str, ...]
    left: int  # the number of left-aligned columns

    def rich(self) -> Group:
        """The table for the terminal."""
        table = RichTable(
            box=box.SIMPLE_HEAD, padding=0, show_edge=False, title=Text(shown(self.title)), title_justify="left"
        )
        columns = [
            _Column(header, [row[i] for row in self.rows], i < self.left) for i, header in enumerate(self.headers)
        ]
        for column in columns:
            table.add_column(column.heading, min_width=column.least, overflow="fold", max_width=_WIDEST)
        for previous, row in itertools.pairwise((None, *self.rows)):
            if row is not None:
                if previous and previous[0] != row[0]:
                    table.add_row()
                table.add_row(*(column.text(one) for column, one in zip(columns, row, strict=True)))
        return Group(table, Text(), *(Text(shown(line), style="dim") for line in self.caption))

    def markdown(self) -> str:
        """The table as a Markdown document."""
        rule = [":--" if i < self.left else "--:" for i in range(len(self.headers))]
        marked = [[(_literal(_marked(one)), one.mark == BEST) for one in row] for row in self.rows]
        body = [[f"**{text}**" if best else text for text, best in row] for row in marked]
        lines = [" | ".join(cells) for cells in (map(_literal, self.headers), rule, *body)]
        caption = _paragraphs([_literal(line) for line in self.caption])
        return "\n".join([f"# {_literal(self.title)}", "", *(f"| {line} |" for line in lines), "", *caption, ""])


def make_table(plan: Plan, rows: Sequence[Row], real: Mapping[str, Sequence[float]] = MappingProxyType({})) -> Table:
    """One row per cell, in the order of `rows`; `real` maps metrics to value and standard error on real pictures."""
    metrics = plan.measures
    ranked = {metric.name: standings(metric, rows, plan.units) for metric in metrics}
    varying = [name for name, text in AXES.items() if len({text(row) for row in rows}) > 1 or name == "sampler"]
    headers = (
        *varying,
        "passes",
        *(f"{metric.label} {'↓' if metric.better == 'lower' else '↑'}" for metric in metrics),
        *list(_COSTS)[1:],
    )
    body = tuple(
        (
            *(Field(AXES[name](row)) for name in varying),
            Field(_COSTS["passes"](row)),
            *(_value(plan, metric, row, ranked[metric.name][i]) for metric in metrics),
            *(Field(text(row)) for text in list(_COSTS.values())[1:]),
        )
        for i, row in enumerate(rows)
    )
    names = [_name(row, varying) for row in rows]
    caption = _caption(plan, rows, varying, real)
    caption = (*caption[:2], *verdicts(plan, rows, names, ranked), *caption[2:])
    return Table(plan.name, headers, body, caption, left=len(set(varying) - set(NUMBERS)))


def _name(row: Row, varying: Sequence[str]) -> str:
    """`"ddim · cfg scale=3 · 10 steps"`, of the settings that differ between rows."""
    units = {"steps": " steps", "budget": " passes"}
    settings = [(name, AXES[name](row)) for name in varying]
    return " · ".join(f"{text}{units.get(name, '')}" for name, text in settings if text)


def _value(plan: Plan, metric: Metric, row: Row, standing: Standing | None) -> Field:
    if standing is None:
        return Field("–" if row.ok else "failed")
    error = standard_error(metric, row, plan.units)
    return Field(
        _with_error(metric, row.metrics[metric.name], error), BEST if standing.best else TIE if standing.ties else ""
    )


def _with_error(metric: Metric, value: float, error: float | None) -> str:
    """`"3.21±.20"`."""
    text = metric.text(value)
    return text + f"±{_error_text(metric, error)}".replace("±0.", "±.") if error else text


def _of_real(plan: Plan, metric: Metric, value: float, error: float) -> str:
    return _with_error(metric, value, metric.error(error, plan.images))


def _error_text(metric: Metric, error: float) -> str:
    """The error in the digits of the metric, or with one significant digit if that would be 0."""
    text = metric.text(error)
    return text if float(text) else f"{error:.{math.ceil(-math.log10(error))}f}"


def _network_share(rows: Sequence[Row]) -> float:
    """The network's share of the time over all cells; 0 if nothing was measured."""
    measured = [row for row in rows if row.network_passes > 0 and row.network_share]
    spent = [(row.ms_per_pass * row.network_passes, row.network_share) for row in measured]
    return sum(network for network, _ in spent) / sum(network / share for network, share in spent) if spent else 0.0


def _caption(
    plan: Plan, rows: Sequence[Row], varying: Sequence[str], real: Mapping[str, Sequence[float]]
) -> tuple[str, ...]:
    same = [f"{name} {text(rows[0])}" for name, text in AXES.items() if rows and name not in varying and text(rows[0])]
    lines = [
        ", ".join(
            [
                *(f"model {plan.model}", *same, f"{plan.images} images per cell"),
                *[f"{len(plan.prompts)} prompts"] * bool(plan.prompts),
                f"seeds {plan.seed} to {plan.seed + plan.images - 1}, {plan.dtype} on {plan.device}.",
            ]
        ),
        f"{_reading(plan)}passes: network passes per image. net %: share of the time spent in the network.",
    ]
    if plan.pictures is not None:
        lines.append(f"Image-to-image from {_origin(plan)}; strength 0 keeps the picture, 1 ignores it.")
    if share := _network_share(rows):
        lines.append(
            f"Over all cells the network took {share:.0%} of the time; decoding and metrics took most of the rest."
        )
    if known := [
        f"{info.label} {_of_real(plan, info, *real[info.name])}" for info in plan.measures if info.name in real
    ]:
        lines.append(f"The same number of real renders, each with its own caption: {', '.join(known)}.")
    if len(rows) < len(plan.cells):
        lines.append(f"{len(rows)} of {len(plan.cells)} cells have been run. The same sweep command runs the rest.")
    return (*lines, *(f"failed: {row.cell.label}: {row.reason}" for row in rows if not row.ok))


def _reading(plan: Plan) -> str:
    """The legend of the metric columns; empty without metrics."""
    if not plan.metrics:
        return ""
    return f"{_MARKS} ({_basis(plan)}). ± one standard error, ↓ lower is better, ↑ higher is better. "


def _origin(plan: Plan) -> str:
    assert plan.pictures is not None
    files = [file for file in plan.pictures.files if file is not None]
    if plan.pictures.set is not None:
        return f"the pictures of set {plan.pictures.set}, one per prompt"
    if len(files) < len(plan.prompts):
        return f"{', '.join(files)} with {len(files)} of {len(plan.prompts)} prompts; the others are text-to-image"
    return ", ".join(dict.fromkeys(files))


def _basis(plan: Plan) -> str:
    repeated = len(set(plan.units)) < plan.images
    return f"differences paired {'prompt by prompt' if repeated else 'image by image'}"


def csv_text(plan: Plan, rows: Sequence[Row]) -> str:
    """One line per cell with all values in full precision.

    `_ci_low` and `_ci_high` are the 95 % interval of the value. Differences are from the best cell, and their intervals
    `_low` and `_high` hold for all cells at once. `_extrapolated` is the value for infinitely many images.
    """
    out = io.StringIO()
    metrics = plan.measures
    ranked = {metric.name: standings(metric, rows, plan.units) for metric in metrics}
    costs = ("network_passes", "seconds_per_image", "ms_per_pass", "network_share")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [*AXES, *(m.name + suffix for m in metrics for suffix in _suffixes(m)), *costs, "status", "reason", "key"]
    )
    for i, row in enumerate(rows):
        numbers = [number for metric in metrics for number in _numbers(plan, metric, row, ranked[metric.name][i])]
        spent = ["" if math.isnan(getattr(row, name)) else getattr(row, name) for name in costs]
        status = "ok" if row.ok else "failed"
        settings = [_inert(text(row)) for text in AXES.values()]
        writer.writerow([*settings, *numbers, *spent, status, _inert(row.reason), row.key])
    return out.getvalue()


def _numbers(plan: Plan, metric: Metric, row: Row, standing: Standing | None) -> list[float | str]:
    if standing is None:
        return [""] * len(_suffixes(metric))
    error = standard_error(metric, row, plan.units)
    word = "best" if standing.best else "tie" if standing.ties else "behind"
    compared = (standing.difference, standing.low, standing.high, word)
    own = (error, *(interval(metric, row, plan.units) or (None, None)))
    limit = [extrapolated(metric, row)] if metric.biased else []
    known = ["" if number is None else number for number in (*own, *limit)]
    return [row.metrics[metric.name], *known, *compared]


def _suffixes(metric: Metric) -> tuple[str, ...]:
    own = ("", "_stderr", "_ci_low", "_ci_high", *["_extrapolated"] * metric.biased)
    return (*own, "_difference", "_low", "_high", "_standing")


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else form.format(value).rstrip(".")


def _literal(text: str) -> str:
    """Text that Markdown shows as it is, without links, HTML, formulas or new columns. `_` stays inside words."""
    return re.sub(r"[\\`*\[\]|$~]|(?<=])\(|(?<!\w)_|_(?!\w)", r"\\\g<0>", html.escape(shown(text), quote=False))


def _inert(text: str) -> str:
    """Text for a spreadsheet, which takes fields that begin with these characters for formulas."""
    return f"'{shown(text)}" if text.startswith(_FORMULA) else shown(text)


def _marked(one: Field) -> str:
    return f"{one.text} {one.mark}".rstrip()


class _Column:
    """Layout of a column in the terminal: numbers aligned, with room for marks."""

    def __init__(self, header: str, fields: Sequence[Field], left: bool) -> None:
        self.left = left
        self.marked = any(one.mark for one in fields)
        self.width = max((len(shown(one.text)) for one in fields), default=0)
        full = max(self.width + 2 * self.marked, *map(len, header.split()))
        self.width = full - 2 * self.marked
        heading = textwrap.fill(shown(header), full, break_long_words=False)
        self.least = None if left and full > _SHORT else full  # such a column is never folded
        self.heading = Text(heading, justify="left" if left else "right")

    def text(self, one: Field) -> Text:
        """The field, in bold if it is the best of its column."""
        text = shown(one.text) if self.left else f"{shown(one.text):>{self.width}}"
        return Text(f"{text} {one.mark}" if one.mark else text, style="bold green" if one.mark == BEST else "")


def _paragraphs(lines: Sequence[str]) -> list[str]:
    return [part for line in lines for part in (line, "")][:-1]
