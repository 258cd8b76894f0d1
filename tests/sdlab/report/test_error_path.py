"""The plot and the chart of the error along σ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import altair
import numpy as np
import pytest
from fake_bench import TOML, FakeBench, result
from PIL import Image

from sdlab.report.error_levels import level_ticks, place_of_zero
from sdlab.report.error_path import _panels
from sdlab.report.page.data import page_data
from sdlab.report.stored_run import opened_run
from sdlab.report.table import make_table
from sdlab.sweep.cell import Cell
from sdlab.sweep.plan import load_plan
from sdlab.sweep.results import CellResult
from sdlab.sweep.store import Row

PATH = np.array([[8.0, 2.0, 0.5, 0.0], [0.3, 0.2, 0.25, 0.1]])


class Bench(FakeBench):
    """Cells with paths, but for one."""

    def run(self, cell: Cell, *rest: object) -> CellResult:
        path = np.empty((2, 0)) if cell.label == "heun · trailing · none · 5 steps" else PATH * [[1], [cell.steps]]
        return replace(result(cell), error_path=path)


@pytest.fixture
def directory(run, no_plots, tmp_path: Path) -> Path:
    run(Bench())
    return tmp_path / "runs" / "quick"


def test_a_sweep_with_paths_has_a_plot(directory: Path):
    with Image.open(directory / "error_along_sigma.png") as picture:
        assert picture.width > 800


def test_a_sweep_without_paths_has_none(run, no_plots, tmp_path):
    run()
    assert not (tmp_path / "runs" / "quick" / "error_along_sigma.png").exists()


def test_panels_are_few_and_have_the_cells_that_end_nearest(file):
    scales = ", ".join(f'{{ name = "cfg", scale = {float(scale)} }}' for scale in range(2, 17))
    toml = TOML.replace('{ name = "cfg", scale = 3.0 }', scales).replace("[5, 10]", "[2, 3, 5, 7, 9, 11, 13]")
    file.write_text(toml, encoding="utf-8")
    rows = [
        Row("", cell, error_path=PATH * [[1], [float(cell.guidance.options.get("scale", 1))]])
        for cell in load_plan(file).cells
    ]
    panels = _panels(rows)
    assert len(panels) == 6
    assert next(iter(panels)) == "2 steps: the nearest 12 of 32"
    assert max(row.cell.guidance.options.get("scale", 1) for some in panels.values() for row in some) == 6


def test_zero_has_a_place_below_all_levels_and_a_tick():
    levels = [PATH[0], np.array([3.0, 1.0])]
    zero = place_of_zero(levels)
    assert 0 < zero < 0.5
    assert level_ticks(levels) == [zero, 1.0, 3.0]
    assert level_ticks([np.array([3.0, 1.0])]) == [1.0, 3.0]


def test_the_chart_of_the_page_is_valid_and_has_every_level_of_every_cell(directory: Path):
    with opened_run(directory) as stored:
        errors = page_data(stored, make_table(stored.plan, stored.rows))["errors"]
        for row, levels in zip(stored.rows, errors["of_cells"], strict=True):
            assert [level["distance"] for level in levels] == pytest.approx(row.error_path[1].tolist(), rel=1e-3)
            assert [level["sigma"] for level in levels] == [f"{sigma:.4g}" for sigma in row.error_path[0]]
    spec = {**errors["view"], "datasets": {"cells": []}}
    altair.Chart.from_dict(spec)
