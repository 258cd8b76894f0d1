"""Ranking plots of very many cells stay of a readable size, and comparisons of them stay valid."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fake_bench import TOML, result
from matplotlib.figure import Figure
from PIL import Image

from sdlab.report import ranking, statistics
from sdlab.sweep.cell import Cell
from sdlab.sweep.plan import Plan, load_plan
from sdlab.sweep.store import Row

STEPS = 14


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "quick.toml"
    path.write_text(TOML.replace("[5, 10]", str(list(range(1, STEPS + 1)))), encoding="utf-8")
    return load_plan(path)


def row(cell: Cell) -> Row:
    found = result(cell)
    return Row(
        cell.label,
        cell,
        metrics=found.metrics,
        stderr=found.stderr,
        per_image=found.per_image,
        network_passes=found.network_passes,
    )


def test_many_panels_are_drawn_below_each_other(plan, tmp_path):
    metric = plan.measures[1]
    ranking.plot_ranking(tmp_path / "one.png", plan, metric, [row(cell) for cell in plan.cells])
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.width == round(120 * 4.6 * 6)
        assert picture.height < picture.width


def test_of_very_many_panels_some_are_drawn_with_the_first_and_the_last(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(ranking, "_PANELS", 3)
    drawn = list[Figure]()
    monkeypatch.setattr(ranking, "save", lambda figure, *_, **__: drawn.append(figure))
    ranking.plot_ranking(tmp_path / "one.png", plan, plan.measures[1], [row(cell) for cell in plan.cells])
    titles = [axes.get_title("left") for axes in drawn[0].axes]
    assert titles == ["1 step", "7 steps", "14 steps"]
    assert f"3 of {STEPS} panels" in drawn[0].get_suptitle()


def test_a_panel_shows_the_best_of_very_many_cells(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(ranking, "_MOST", 3)
    drawn = list[Figure]()
    monkeypatch.setattr(ranking, "save", lambda figure, *_, **__: drawn.append(figure))
    rows = [row(cell) for cell in plan.cells if cell.steps <= 2]
    ranking.plot_ranking(tmp_path / "one.png", plan, plan.measures[1], rows)
    panes = drawn[0].axes
    assert [axes.get_title("left") for axes in panes[:2]] == ["1 step: the best 3 of 4", "2 steps: the best 3 of 4"]
    labels = [text.get_text() for axes in panes[:2] for text in axes.get_yticklabels()]
    assert len(labels) == 6
    for steps, some in ((1, labels[:3]), (2, labels[3:])):
        ordered = sorted((one for one in rows if one.cell.steps == steps), key=lambda one: -one.metrics["clip_score"])
        assert [label.split(",")[0].strip() for label in some] == [one.cell.sampler.label for one in ordered[:3]]


def test_long_names_leave_room_for_the_dots(plan, tmp_path, monkeypatch):
    drawn = list[Figure]()
    monkeypatch.setattr(ranking, "save", lambda figure, *_, **__: drawn.append(figure))
    monkeypatch.setattr(
        ranking, "_label", lambda *_: "dpmpp_2m lower_order_final=True, linspace ending=stop_at_sigma_min"
    )
    ranking.plot_ranking(tmp_path / "one.png", plan, plan.measures[1], [row(plan.cells[0])])
    drawn[0].draw_without_rendering()
    (axes,) = drawn[0].axes
    assert axes.get_window_extent().width > 2 * 100  # two inches
    assert min(text.get_window_extent().x0 for text in axes.get_yticklabels()) >= 0


def test_the_bound_for_very_many_cells_is_a_little_larger_than_that_of_random_signs(plan, monkeypatch):
    metric, generator = plan.measures[1], np.random.default_rng(0)
    rows = [row(plan.cells[0]) for _ in range(12)]
    rows = [Row("", one.cell, metrics={}, per_image={metric.name: generator.normal(size=64)}) for one in rows]
    exact = statistics.critical_errors(metric, rows, ())
    monkeypatch.setattr(statistics, "_MANY", 11)
    bound = statistics.critical_errors(metric, rows, ())
    assert exact < bound < 1.15 * exact


def test_labels_of_ticks_do_not_touch(plan, tmp_path, monkeypatch):
    """Four narrow panels of small values, which need many digits."""
    drawn = list[Figure]()
    monkeypatch.setattr(ranking, "save", lambda figure, *_, **__: drawn.append(figure))
    monkeypatch.setattr(ranking, "_label", lambda *_: "gradient_estimation, cfg scale=3 (47)")
    cells = [cell for cell in plan.cells if cell.steps <= 4]
    rows = []
    for i, cell in enumerate(cells):
        values = 0.015 + 0.0167 * i / len(cells) + np.linspace(-0.008, 0.008, plan.images)
        rows.append(replace(row(cell), metrics={"clip_score": values.mean()}, per_image={"clip_score": values}))
    ranking.plot_ranking(tmp_path / "one.png", plan, plan.measures[1], rows)
    drawn[0].draw_without_rendering()
    for axes in drawn[0].axes[:4]:
        low, high = axes.get_xlim()
        boxes = [
            label.get_window_extent()
            for value, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
            if low <= value <= high
        ]
        assert len(boxes) >= 2
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
