"""The error along σ is the distance of a cell to the flow after each step, and ends with the reference error."""

from __future__ import annotations

import io
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import samplers
from sdlab.commands.sweep import sweep
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.flow_ends import FOLLOWED
from sdlab.sweep.identity import identify
from sdlab.sweep.store import Damaged, Row, Store

MODEL = """
import samplers
from sdlab.backends.custom_model import CustomModel

STD = 0.5

def denoise(x, sigma):
    return x * STD**2 / (STD**2 + sigma**2)

def flow(x, sigma, sigma_next):
    return x * ((STD**2 + sigma_next**2) / (STD**2 + sigma**2)) ** 0.5

def known():
    return CustomModel(denoise, samplers.continuous_levels(0.05, 10.0), (3,), flow=flow)

def unknown():
    return denoise, samplers.continuous_levels(0.05, 10.0), (3,)
"""
TOML = """
model = "mine.py:{model}"
images = {images}
batch = 24
device = "cpu"
metrics = ["reference_error"]
[cells]
sampler = ["euler", "heun"]
grid = [{{ name = "karras", ending = "stop_at_sigma_min" }}, "karras"]
steps = [6, 12]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sdlab.report.plots.plot_metric", lambda path, *_: path.touch())
    monkeypatch.setattr("sdlab.report.error_path.plot_error_path", lambda path, *_: path.touch())
    Path("mine.py").write_text(MODEL, encoding="utf-8")


def rows(model: str = "known", images: int = 6) -> list[Row]:
    Path("s.toml").write_text(TOML.format(model=model, images=images), encoding="utf-8")
    out = Path("runs") / model
    assert sweep("s.toml", identify, ModelBench, out=out, console=Console(file=io.StringIO())) == 0
    with Store(out / "s" / "results.sqlite") as store:
        return store.rows()


def test_it_ends_with_the_reference_error_and_has_a_level_per_step():
    for row in rows():
        levels, distances = row.error_path
        sigmas = samplers.grid(
            "karras", steps=row.cell.steps, levels=samplers.continuous_levels(0.05, 10.0), **row.cell.grid.options
        )
        np.testing.assert_allclose(levels, sigmas[1:])
        assert distances[-1] == pytest.approx(row.metrics["reference_error"])


def test_it_is_the_distance_to_the_exact_flow_image_by_image():
    [row] = [one for one in rows() if (one.cell.sampler.name, one.cell.steps) == ("euler", 6) and one.cell.grid.options]
    x = first = samplers.seeded(range(6))(torch.empty(6, 3)).double() * 10.0
    levels = (10.0, *row.error_path[0])
    for sigma, level, distance in zip(levels, levels[1:], row.error_path[1], strict=False):
        x = x + (level - sigma) * (x - x * 0.25 / (0.25 + sigma**2)) / sigma
        flow = first * ((0.25 + level**2) / (0.25 + 100.0)) ** 0.5
        assert distance == pytest.approx(float((x - flow).square().mean(1).sqrt().mean()), rel=1e-3)


def test_a_converged_run_stands_for_an_unknown_flow():
    for exact, fine in zip(rows("known"), rows("unknown"), strict=True):
        if not exact.cell.grid.options:
            continue  # from the lowest level to 0 the converged run takes an Euler step, as samplers do
        np.testing.assert_allclose(fine.error_path, exact.error_path, rtol=1e-2, atol=1e-5)


def test_the_first_images_are_followed_whatever_the_batches():
    some, more = rows(images=FOLLOWED), rows(images=FOLLOWED + 30)
    for one, other in zip(some, more, strict=False):
        np.testing.assert_allclose(one.error_path, other.error_path, rtol=1e-6)


def test_a_damaged_path_is_reported():
    key = rows()[0].key
    path = Path("runs/known/s/results.sqlite")
    good = io.BytesIO()
    np.savez(good, reference_error=np.array([[1.0, 2.0], [0.1, 0.2]]))  # rising levels
    for content in (b"nothing", good.getvalue()):
        with sqlite3.connect(path) as db:
            db.execute("UPDATE cells SET error_path = ? WHERE key = ?", (content, key))
        with Store(path) as store, pytest.raises(Damaged):
            store.row(key)
