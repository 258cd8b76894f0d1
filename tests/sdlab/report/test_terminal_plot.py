"""The plot in a terminal has a letter per sampler, at the place of its value and cost."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from fake_bench import result
from rich.console import Console

from sdlab.metrics import METRICS
from sdlab.report.run_report import report
from sdlab.report.terminal_plot import _HEIGHT, _WIDTH, plot
from sdlab.sweep.cell import Cell, Choice
from sdlab.sweep.store import Row

ACCURACY = METRICS["prompt_accuracy"]


def row(sampler: str, passes: float, value: float) -> Row:
    cell = Cell(sampler=Choice(name=sampler), grid=Choice(name="trailing"), guidance=Choice(name="none"), steps=5)
    made = result(cell)
    return replace(Row(sampler, cell), metrics={"prompt_accuracy": value}, network_passes=passes, stderr=made.stderr)


def field(lines: list[str]) -> list[str]:
    return [line.partition("┤")[2].ljust(_WIDTH) for line in lines[1 : _HEIGHT + 1]]


def test_places_are_those_of_cost_and_value():
    lines = plot(ACCURACY, [row("ddim", 4, 0.5), row("ddim", 16, 1.0), row("heun", 64, 0.5)])
    drawn = field(lines)
    assert (drawn[0].index("a"), drawn[-1].index("a"), drawn[-1].index("b")) == (round(_WIDTH / 2), 0, _WIDTH - 1)
    assert lines[0].startswith("prompt accuracy ↑ against network passes")
    assert lines[1].startswith("1.000 ┤")
    assert lines[_HEIGHT].startswith("0.500 ┤")
    assert lines[_HEIGHT + 2].split() == ["4", "64"]
    assert "a ddim  b heun" in lines[_HEIGHT + 3]


def test_cells_at_one_place_are_several():
    lines = plot(ACCURACY, [row("ddim", 4, 0.5), row("heun", 4, 0.5), row("heun", 8, 0.6)])
    assert field(lines)[-1][0] == "*"
    assert lines[-2].endswith("* several")


@pytest.mark.parametrize(
    "rows", [[], [row("ddim", 4, 0.5), row("heun", 4, 0.6)], [row("ddim", 4, 0.5), row("ddim", 8, float("nan"))]]
)
def test_without_two_costs_there_is_no_plot(rows: list[Row]):
    assert plot(ACCURACY, rows) == []


def test_it_is_printed_in_a_terminal_that_is_wide_enough_alone(run, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("sdlab.report.run_report._files", lambda *_: ())
    run()
    found = []
    for width, terminal in ((100, True), (79, True), (100, False)):
        out = io.StringIO()
        report(tmp_path / "runs" / "quick", Console(file=out, width=width, force_terminal=terminal))
        found.append("against network passes" in out.getvalue())
    assert found == [True, False, False]
