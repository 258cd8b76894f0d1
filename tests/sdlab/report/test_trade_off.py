"""The trade-off plot of image-to-image: labels of near points can be read."""

from itertools import combinations
from pathlib import Path

import pytest
from fake_bench import TOML
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from sdlab.report import trade_off
from sdlab.sweep.plan import load_plan
from sdlab.sweep.store import Row

EDIT = TOML.replace("[cells]", '[image]\nset = "scenes"\n[cells]').replace("[5, 10]", "10\nstrength = [0.4, 0.5]")


def test_labels_of_two_lines_through_the_same_points_do_not_touch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "quick.toml"
    path.write_text(EDIT, encoding="utf-8")
    plan = load_plan(path)
    gain, loss = plan.measures[:2]
    some = [cell for cell in plan.cells if cell.sampler == plan.cells[0].sampler]
    rows = [Row(cell.label, cell, metrics={gain.name: cell.strength, loss.name: cell.strength}) for cell in some]
    drawn = list[Figure]()
    monkeypatch.setattr(trade_off, "save", lambda figure, *_, **__: drawn.append(figure))
    trade_off.plot_trade_off(tmp_path / "one.png", plan, gain, loss, rows)
    drawn[0].draw_without_rendering()
    labels = drawn[0].axes[0].findobj(Annotation)
    assert sorted(label.get_text() for label in labels) == ["0.4", "0.4", "0.5", "0.5"]
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
