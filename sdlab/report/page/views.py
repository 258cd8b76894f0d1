"""The charts of a page, as Vega-Lite specifications.

Charts have no data. page.js sets their `cells`, one record per cell in the form of `data.py`, and the parameter
`picked`, the numbers of the selected cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sdlab.report.page.heat_map import HeatMap

Spec = dict[str, Any]

# Six colours at least 3:1 on white and on the dark page, which remain distinct without red or green cones, and seven
# shapes. Each group has a pair of its own.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a5cd0", "#3b9ad9")
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4])

_INK = "currentColor"  # the text colour of the page, whether it is light, dark or printed
_BRUSH = {"fill": "#808080", "fillOpacity": 0.2, "stroke": "#808080"}
_CELLS = {"name": "cells"}
_PICKED = {"name": "picked", "value": []}
_IS_PICKED = "indexof(picked, datum.cell) >= 0"
_NONE_PICKED = "length(picked) == 0"


@dataclass(frozen=True)
class Measure:
    """The vertical axis: a metric with the range of its values."""

    heading: str  # with the arrow
    log: bool
    low: float
    high: float
    lower_is_better: bool
    real: float | None = None  # the value of real pictures


@dataclass(frozen=True)
class Groups:
    """What colours and shapes tell apart: the samplers, or the guidance strategies of a sweep of one sampler."""

    title: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Across:
    """A horizontal axis: a field of the records."""

    field: str
    heading: str
    log: bool
    line: str = "line"  # the field that tells the lines of a convergence chart apart
    ticks: tuple[float, ...] = ()  # the labelled values; chosen by Vega-Lite if empty


def cost_view(measure: Measure, across: Across, groups: Groups) -> Spec:
    """The values of a metric against a cost, with the Pareto front and 95 % intervals."""
    x, y = _axis(across), _value(measure)
    front = {
        "transform": [
            {"filter": f"isValid(datum.loss) && isValid(datum.{across.field})"},
            {"window": [{"op": "min", "field": "loss", "as": "best"}], "sort": [{"field": across.field}]},
            {"filter": "datum.loss === datum.best"},
            {
                "window": [{"op": "rank", "as": "reached"}],
                "groupby": ["loss"],
                "sort": [{"field": across.field}],
            },
            {"filter": "datum.reached === 1"},
        ],
        "name": "front",
        "mark": {
            "type": "line",
            "interpolate": "step-after",
            "stroke": _INK,
            "strokeDash": [4, 3],
            "opacity": 0.6,
        },
        "encoding": {"x": x, "y": y, "order": {"field": across.field, "type": "quantitative"}},
    }
    return _chart([*_real(measure), front, *_points(measure, across, groups)])


def convergence_view(measure: Measure, across: Across, groups: Groups, guidances: Sequence[str]) -> Spec:
    """The values of a metric against steps, passes or strength, with one line per choice of all else."""
    picked = f"indexof(picked_lines, datum.{across.line}) >= 0"
    line: Spec = {
        "name": "lines",
        "transform": [{"filter": f"isValid(datum.value) && isValid(datum.{across.field})"}],
        "mark": {"type": "line", "strokeWidth": 1.6},
        "encoding": {
            "x": _axis(across),
            "y": _value(measure),
            "color": _colour(groups),
            "detail": {"field": across.line, "type": "nominal"},
            "opacity": {"condition": {"test": f"{_NONE_PICKED} || {picked}", "value": 0.8}, "value": 0.1},
        },
    }
    if 1 < len(guidances) <= len(_DASHES):
        scale = {"domain": [*guidances], "range": list(_DASHES[: len(guidances)])}
        legend = {"symbolStrokeColor": _INK, "symbolSize": 300}
        line["encoding"]["strokeDash"] = {
            "field": "guidance",
            "type": "nominal",
            "scale": scale,
            "title": "guidance",
            "legend": legend,
        }
    chart = _chart([*_real(measure), line, *_points(measure, across, groups)])
    return {**chart, "params": [*chart["params"], {"name": "picked_lines", "value": []}]}


def error_path_view(groups: Groups, zero: float, ticks: Sequence[float], log: bool) -> Spec:
    """The distance of each cell to the converged flow, over the noise levels that it passes.

    Each record is a level of a cell. σ = 0 is drawn at `zero`, below the other levels.
    """
    label = f"abs(datum.value - {zero}) < 1e-9 * {zero} ? '0' : format(datum.value, '~g')"
    axis = {"values": [*ticks], "labelExpr": label, "labelOverlap": "greedy"}
    x = {
        "field": "place",
        "type": "quantitative",
        "title": "noise level σ after each step",
        "scale": {"type": "log", "reverse": True, "nice": False, "padding": 12},
        "axis": axis,
    }
    y = {
        "field": "distance",
        "type": "quantitative",
        "title": "distance to the converged flow",
        "scale": {"type": "log", "nice": False, "padding": 12} if log else {"zero": True},
    }
    seen = {"condition": {"test": f"{_NONE_PICKED} || {_IS_PICKED}", "value": 0.85}, "value": 0.08}
    fields = {"name": "cell", "sigma": "σ", "distance": "distance", "passes_text": "passes"}
    shared: Spec = {"x": x, "y": y, "color": _colour(groups), "opacity": seen}
    return _chart(
        [
            {
                "name": "paths",
                "mark": {"type": "line", "strokeWidth": 1.6},
                "encoding": {**shared, "detail": {"field": "cell", "type": "nominal"}},
            },
            {
                "name": "stops",
                "mark": {"type": "point", "filled": True, "size": 30, "cursor": "pointer"},
                "encoding": {
                    **shared,
                    "tooltip": [{"field": field, "type": "nominal", "title": name} for field, name in fields.items()],
                },
            },
        ]
    )


def heat_view(measure: Measure, heat: HeatMap) -> Spec:
    """A heat map of a metric over two settings, one panel for each choice of all else."""
    value, low, high = (
        f"log({one})" if measure.log else f"({one})" for one in ("datum.value", measure.low, measure.high)
    )
    share = f"({value} - {low}) / max(1e-300, {high} - {low})"  # from 0 to 1
    x: Spec = {"field": "x", "type": "ordinal", "title": heat.across, "axis": {"labelAngle": 0}}
    if heat.columns:
        x["sort"] = [*heat.columns]
    y = {"field": "row", "type": "ordinal", "title": heat.down, "sort": [*heat.rows]}
    scale = {
        "scheme": "viridis",
        "domain": [measure.low, measure.high],
        "reverse": measure.lower_is_better,
        **({"type": "log"} if measure.log else {}),
    }
    dark = f"datum.share {'>' if measure.lower_is_better else '<'} 0.5"
    seen = {"condition": {"test": f"{_NONE_PICKED} || {_IS_PICKED}", "value": 1}, "value": 0.35}
    return {
        "data": _CELLS,
        "params": [_PICKED],
        "transform": [{"filter": "isValid(datum.value)"}, {"calculate": share, "as": "share"}],
        "facet": {"field": "panel", "type": "nominal", "title": None, "sort": [*heat.panels]},
        "spec": {
            "width": {"step": 52},
            "height": {"step": 24},
            "encoding": {"x": x, "y": y, "opacity": seen},
            "layer": [
                {
                    "name": "squares",
                    "mark": {"type": "rect", "cursor": "pointer", "tooltip": True},
                    "encoding": {
                        "color": {
                            "field": "value",
                            "type": "quantitative",
                            "scale": scale,
                            "title": measure.heading,
                            "legend": {"orient": "top", "gradientLength": 200},
                        },
                        "tooltip": _tooltip(measure),
                    },
                },
                {
                    "mark": {"type": "text", "fontSize": 11},
                    "encoding": {
                        "text": {"field": "short", "type": "nominal"},
                        "color": {"condition": {"test": dark, "value": "white"}, "value": "black"},
                    },
                },
            ],
        },
        "resolve": {"axis": {"x": "independent", "y": "independent"}},
    }


def _chart(layers: list[Spec]) -> Spec:
    return {
        "data": _CELLS,
        "params": [_PICKED],
        "width": "container",
        "height": 300,
        "autosize": "fit-x",
        "layer": layers,
    }


def _points(measure: Measure, across: Across, groups: Groups) -> list[Spec]:
    """Intervals and points. Dragging selects the points in a rectangle."""
    x, y = _axis(across), _value(measure)
    valid = {"filter": f"isValid(datum.value) && isValid(datum.{across.field})"}
    return [
        {
            "name": "intervals",
            "transform": [valid, {"filter": "isValid(datum.low) && isValid(datum.high)"}],
            "mark": {"type": "rule"},
            "encoding": {
                "x": x,
                "y": {**y, "field": "low"},
                "y2": {"field": "high"},
                "color": _colour(groups),
                "opacity": {
                    "condition": [{"test": _IS_PICKED, "value": 0.9}, {"test": _NONE_PICKED, "value": 0.35}],
                    "value": 0.04,
                },
            },
        },
        {
            "name": "points",
            "transform": [valid],
            "params": [
                {"name": "brush", "select": {"type": "interval", "encodings": ["x", "y"], "mark": _BRUSH}},
                {"name": "legend", "select": {"type": "point", "fields": ["group"]}, "bind": "legend"},
            ],
            "mark": {"type": "point", "filled": True, "size": 64, "cursor": "pointer"},
            "encoding": {
                "x": x,
                "y": y,
                "color": _colour(groups),
                "shape": {
                    "field": "group",
                    "type": "nominal",
                    "scale": {
                        "domain": [*groups.names],
                        "range": [_SHAPES[i % len(_SHAPES)] for i in range(len(groups.names))],
                    },
                    "title": groups.title,
                },
                "opacity": {"condition": {"test": f"{_NONE_PICKED} || {_IS_PICKED}", "value": 1}, "value": 0.12},
                "size": {"condition": {"test": _IS_PICKED, "value": 130}, "value": 64},
                "tooltip": _tooltip(measure),
            },
        },
    ]


def _real(measure: Measure) -> list[Spec]:
    """A line at the value of real pictures."""
    if measure.real is None:
        return []
    data = {"values": [{"real": measure.real}]}
    place = {"y": {**_value(measure), "field": "real"}}
    line = {"type": "rule", "strokeDash": [1, 2], "stroke": _INK, "opacity": 0.8}
    words = {"text": "real pictures", "align": "right", "baseline": "bottom", "dy": -2}
    label = {"type": "text", "x": "width", "color": _INK, "fontSize": 10, **words}
    return [{"data": data, "mark": mark, "encoding": place} for mark in (line, label)]


def _axis(across: Across) -> Spec:
    scale = {"type": "log", "nice": False, "padding": 12} if across.log else {"zero": False, "padding": 12}
    axis = {
        "format": "~g",
        "labelOverlap": "greedy",
        "labelSeparation": 6,
        **({"values": [*across.ticks]} if across.ticks else {}),
    }
    return {"field": across.field, "type": "quantitative", "title": across.heading, "scale": scale, "axis": axis}


def _value(measure: Measure) -> Spec:
    scale = {"type": "log"} if measure.log else {"zero": False}
    return {"field": "value", "type": "quantitative", "title": measure.heading, "scale": scale}


def _colour(groups: Groups) -> Spec:
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(groups.names))]
    legend = {"symbolOpacity": 1, "labelLimit": 260}
    scale = {"domain": [*groups.names], "range": colours}
    return {"field": "group", "type": "nominal", "scale": scale, "title": groups.title, "legend": legend}


def _tooltip(measure: Measure) -> list[Spec]:
    fields = {"name": "cell", "text": measure.heading, "passes_text": "passes", "seconds_text": "s/image"}
    return [{"field": field, "type": "nominal", "title": title} for field, title in fields.items()]
