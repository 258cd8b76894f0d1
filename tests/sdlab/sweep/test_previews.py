"""Previews are the estimates x̂₀ of the first image at falling levels of its path, and end with the image."""

from __future__ import annotations

import io
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_bench import FakeBench, result
from rich.console import Console

import samplers
from sdlab.commands.sweep import sweep
from sdlab.picture import to_bytes
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.sweep.previews import COUNT, SIDE, Estimates, Previews
from sdlab.sweep.store import Damaged, Store

MODEL = """
import torch
import samplers
from sdlab.backends.custom_model import CustomModel

def model():
    decode = lambda x: x.clamp(-1, 1).repeat(1, 3, 200, 200)
    denoise = lambda x, sigma: x / (1 + torch.as_tensor(sigma).view(-1, 1, 1, 1) ** 2)
    return CustomModel(denoise, samplers.continuous_levels(0.05, 10.0), (1, 1, 1), decode=decode)
"""
TOML = """
model = "mine.py:model"
images = 6
batch = 4
device = "cpu"
metrics = []
[cells]
sampler = [{samplers}]
grid = "karras"
steps = {steps}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sdlab.report.plots.plot_metric", lambda path, *_: path.touch())
    Path("mine.py").write_text(MODEL, encoding="utf-8")


def previews(names: str = '"euler"', steps: int = 5) -> list[Previews]:
    Path("s.toml").write_text(TOML.format(samplers=names, steps=steps), encoding="utf-8")
    console = Console(file=io.StringIO())
    assert sweep("s.toml", identify, ModelBench, console=console) == 0, console.file.getvalue()
    with Store(Path("runs/s/results.sqlite")) as store:
        return [store.previews(row.key) for row in store.rows()]


def test_they_are_the_estimates_of_the_sampler_at_its_levels():
    [found] = previews()
    sigmas = samplers.grid("karras", steps=5, levels=samplers.continuous_levels(0.05, 10.0))
    assert found.levels == pytest.approx(sigmas)
    x = samplers.seeded([0])(torch.empty(1, 1, 1, 1)) * sigmas[0]
    for level, after, picture in zip(sigmas, (*sigmas[1:], 0), found.pictures, strict=True):
        x0 = x / (1 + level**2)
        shown = to_bytes(x0.repeat(1, 3, 1, 1))[0]
        assert abs(int(picture[0, 0, 0]) - int(shown[0, 0, 0])) <= 1
        x = x + (after - level) * (x - x0) / level if level else x


def test_there_are_few_and_they_are_small():
    for found in previews('"euler", "heun", "dpmpp_sde", "edm_heun", "dpm_adaptive"', 40):
        assert 2 <= len(found.levels) <= COUNT + 1
        assert max(found.pictures.shape[1:3]) <= SIDE
        assert list(found.levels) == sorted(found.levels, reverse=True)


def test_estimates_above_a_level_are_not_those_of_the_level():
    estimates = Estimates((8.0, 4.0, 2.0, 0.0))
    for level in (9.0, 7.9, 5.0, 4.0, 3.0, 1.0, 0.5):
        estimates.add(torch.full((2, 1), level), level)
    assert [level for level, _ in estimates.found] == [7.9, 4.0, 1.0]
    assert [tuple(x0.shape) for _, x0 in estimates.found] == [(1, 1)] * 3


def test_images_with_levels_of_their_own_have_that_of_the_first():
    estimates = Estimates((8.0, 4.0, 0.0))
    estimates.add(torch.ones(2, 1), torch.tensor([8.0, 3.0]))
    assert estimates.found[0][0] == 8.0


def test_damaged_previews_are_reported(run, tmp_path):
    run(FakeBench())
    path = tmp_path / "runs" / "quick" / "results.sqlite"
    with Store(path) as store:
        cell = store.rows()[0].cell
        made = result(cell)
        pictures = np.zeros((2, 4, 4, 3), np.uint8)
        store.add("a", cell, replace(made, previews=Previews((2.0, 0.0), pictures)), ["", "", ""], {})
        np.testing.assert_array_equal(store.previews("a").pictures, pictures)
    for text in ("[2.0, 1.0, 0.0]", "[NaN, 0]", "{"):
        with sqlite3.connect(path) as db:
            db.execute("UPDATE cells SET preview_levels = ? WHERE key = 'a'", (text,))
        with Store(path) as store, pytest.raises(Damaged):
            store.previews("a")
