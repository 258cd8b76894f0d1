"""The data of a page: the cells of a run with their settings, values, charts, pictures and provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sdlab.metrics import Metric
from sdlab.report.columns import Column, Table, Value
from sdlab.report.error_levels import level_ticks, place_of_zero
from sdlab.report.page.heat_map import HeatMap, heat_map
from sdlab.report.page.paths import page_paths
from sdlab.report.page.pictures import LIMIT, page_pictures
from sdlab.report.page.views import Across, Groups, Measure, convergence_view, cost_view, error_path_view, heat_view
from sdlab.report.protocol import bibliography, protocol
from sdlab.report.shown import on_log_axis
from sdlab.report.stored_run import StoredRun
from sdlab.report.table import heading, name_of, varying_axes
from sdlab.sweep.store import Row

_COSTS = {"passes": "network passes per image", "seconds": "seconds per image"}
_LABELLED = 12  # values of an axis that are all labelled, at most


def page_data(run: StoredRun, table: Table, picture_limit: int = LIMIT) -> dict[str, Any]:
    """All that a page shows, as JSON. `table` is that of all rows of the run. Missing values are None."""
    columns = {column.name: column for column in table.columns}
    pictures, paths = page_pictures(run, picture_limit), page_paths(run)
    scales = columns["guidance.scale"].values if "guidance.scale" in columns else [None] * len(run.rows)
    heat = heat_map(run.rows, scales)
    cells = _cells(run.rows, columns, heat)
    return {
        "title": table.title,
        "summary": list(table.legend()),
        "cells": cells,
        "columns": [_column(column) for column in table.columns if column.people or column.machine],
        "across": {across.field: across.heading for across in _across_all(cells)},
        "converges": any(
            len({cell[name] for cell in cells}) < len(cells) for name in ("line", "strength_line", "images_line")
        ),
        "metrics": [_metric(run, metric, columns, cells, heat) for metric in run.plan.measures],
        "errors": _errors(run.rows),
        "pictures": {
            "prompts": list(pictures.prompts),
            "of_cells": list(pictures.of_cells),
            "inputs": list(pictures.inputs),
            "left_out": pictures.left_out,
        },
        "paths": {"of_cells": list(paths.of_cells), "left_out": paths.left_out},
        "protocol": protocol(run),
        "bibtex": bibliography(run).splitlines(),
        "notes": list(run.notes),
    }


def _column(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "heading": column.heading,
        "left": column.left,
        "people": column.people,
        "values": list(column.values),
        "texts": [str(field) for field in column.fields],
    }


def _cells(rows: Sequence[Row], columns: Mapping[str, Column], heat: HeatMap) -> list[dict[str, Any]]:
    """One record per cell with all that does not depend on the metric."""
    varying, group_of = varying_axes(rows), _groups(rows)[1]
    passes, seconds = columns["network_passes"], columns["seconds_per_image"]
    return [
        {
            "cell": i,
            "name": name_of(row, varying),
            "label": row.cell.label,
            "reason": row.reason,
            "sampler": row.cell.sampler.label,
            "group": group_of[i],
            "guidance": row.cell.guidance.label,
            "line": _line(row, f"strength {row.cell.strength}", f"{row.cell.images} images"),
            "strength_line": _line(row, row.cell.length, f"{row.cell.images} images"),
            "images_line": _line(row, row.cell.length, f"strength {row.cell.strength}"),
            "steps": row.cell.steps,
            "strength": row.cell.strength,
            "images": row.cell.images,
            "passes": _positive(passes.values[i]),
            "passes_text": str(passes.fields[i]),
            "seconds": _positive(seconds.values[i]),
            "seconds_text": str(seconds.fields[i]),
            **dict(zip(("x", "row", "panel"), heat.squares[i], strict=True)),
        }
        for i, row in enumerate(rows)
    ]


def _groups(rows: Sequence[Row]) -> tuple[Groups, list[str]]:
    """The groups of cells that colours tell apart, and the group of each row."""
    samplers = [row.cell.sampler.label for row in rows]
    strategies = [row.cell.guidance.name for row in rows]
    guidances = [row.cell.guidance.label for row in rows]
    of_rows = next((some for some in (samplers, strategies, guidances) if len(set(some)) > 1), samplers)
    title = "sampler" if of_rows is samplers else "guidance"
    return Groups(title, tuple(dict.fromkeys(of_rows))), of_rows


def _line(row: Row, *rest: str) -> str:
    """What the cells of one line of a convergence chart share."""
    cell = row.cell
    return " · ".join([cell.sampler.label, cell.grid.label, cell.guidance.label, *rest, f"seed {cell.seed}"])


def _metric(
    run: StoredRun, metric: Metric, columns: Mapping[str, Column], cells: Sequence[Mapping[str, Any]], heat: HeatMap
) -> dict[str, Any]:
    """The values of a metric and its charts, each under the name of what it is shown against."""
    column = columns[metric.name]
    known = list(_numbers(column.values))
    real = run.real[metric.name][0] if metric.name in run.real else None
    measure = Measure(
        heading(metric),
        on_log_axis(metric, known),
        min(known, default=0.0),
        max(known, default=1.0),
        metric.better == "lower",
        real,
    )
    guidances, groups = list(dict.fromkeys(cell["guidance"] for cell in cells)), _groups(run.rows)[0]
    return {
        "name": metric.name,
        "heading": heading(metric),
        "about": metric.about,
        "values": list(column.values),
        "texts": [str(field) for field in column.fields],
        "short": [field.text for field in column.fields],
        "low": list(columns[f"{metric.name}_ci_low"].values),
        "high": list(columns[f"{metric.name}_ci_high"].values),
        "loss": [_loss(metric, value, real) for value in column.values],
        "costs": {name: cost_view(measure, _across(name, heading, cells), groups) for name, heading in _COSTS.items()},
        "convergence": {
            across.field: convergence_view(measure, across, groups, guidances) for across in _across_all(cells)
        },
        "heat": heat_view(measure, heat),
    }


def _across_all(cells: Sequence[Mapping[str, Any]]) -> list[Across]:
    """What convergence is shown against: images and strength, if they vary, before steps and costs."""
    headings = {"images": "images", "strength": "strength", "steps": "steps", **_COSTS}
    found = [_across(name, heading, cells) for name, heading in headings.items()]
    return [across for across in found if len({cell[across.field] for cell in cells} - {None}) > 1] or found[2:3]


def _across(name: str, heading: str, cells: Sequence[Mapping[str, Any]]) -> Across:
    values = sorted({float(cell[name]) for cell in cells if cell[name] is not None})
    return Across(
        name,
        heading,
        log=name != "strength",
        line=f"{name}_line" if name in ("strength", "images") else "line",
        ticks=tuple(values) if len(values) <= _LABELLED else (),
    )


def _errors(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The error along σ: its chart, and the levels and distances of each cell; None if no cell has any."""
    paths = [row.error_path for row in rows]
    levels = [path[0] for path in paths if path.size]
    if not levels:
        return None
    zero = place_of_zero(levels)
    log = all((path[1] > 0).all() for path in paths)
    return {
        "view": error_path_view(_groups(rows)[0], zero, level_ticks(levels), log),
        "of_cells": [
            [
                {"place": float(level) or zero, "sigma": f"{level:.4g}", "distance": float(f"{error:.4g}")}
                for level, error in path.T
            ]
            for path in paths
        ],
    }


def _loss(metric: Metric, value: Value, real: float | None) -> float | None:
    """What the Pareto front makes small."""
    if not isinstance(value, int | float):
        return None
    if metric.better == "nearer to real":
        return None if real is None else abs(value - real)
    return value if metric.better == "lower" else -value


def _positive(value: Value) -> float | None:
    """A value that has a place on a logarithmic axis."""
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _numbers(values: Iterable[Value]) -> Iterable[float]:
    return (float(value) for value in values if isinstance(value, int | float))
