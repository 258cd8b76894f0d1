"""The latent diffusion backend: files read once, the noise schedule from the model's configuration."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import samplers
from sdlab.backends.base import Mistakes
from sdlab.backends.registry import open_model
from sdlab.commands.sweep import sweep
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.sweep.plan import load_plan
from sdlab.sweep.store import Store
from sdlab.system.resources import find
from sdlab.weights import layouts, model_loader

TOML = """
model = "mine"
images = 2
device = "cpu"
[prompts]
list = ["a red circle", "a blue star"]
[cells]
sampler = "ddim"
grid = "trailing"
steps = 10
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the lab model as `mine`, configured with 12 timesteps."""
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine"
    mine.mkdir()
    for file in find("data/scenes").iterdir():
        (mine / file.name).symlink_to(file.resolve())
    (mine / "config.json").unlink()
    config = json.loads(find("data/scenes/config.json").read_text(encoding="utf-8"))
    config["levels"]["n"] = 12
    (mine / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return mine


def run(toml: str, **options: Any) -> tuple[int, str]:
    Path("sweep.toml").write_text(toml, encoding="utf-8")
    console = Console(file=io.StringIO(), width=200)
    status = sweep("sweep.toml", identify, ModelBench, console=console, **options)
    return status, console.file.getvalue()  # type: ignore[attr-defined]


def test_a_model_with_12_timesteps_is_planned_checked_and_sampled_with_those(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(TOML.replace("steps = 10", "steps = 20"), dry_run=True)[0] == 2
    assert capsys.readouterr().err == (
        "error: sweep.toml: cells.steps[0]: grid 'trailing' cannot have 20 levels: the model has 12 timesteps\n"
    )
    status, out = run(TOML, dry_run=True)
    assert status == 0
    assert "1 of 1 cells to run, 2 images each: 20 network passes" in out
    assert run(TOML)[0] == 0
    with Store(Path("runs/sweep/results.sqlite")) as store:
        [row] = store.rows()
    assert row.network_passes == 10


def test_a_budget_gives_at_most_as_many_steps_as_timesteps(folder: Path):
    Path("sweep.toml").write_text(TOML.replace("steps = 10", "passes = 30"), encoding="utf-8")
    plan = load_plan("sweep.toml")
    assert [cell.steps for cell in plan.cells] == [12]
    assert plan.opened.levels == samplers.discrete_levels(n=12)


def test_a_grid_is_tried_within_the_timesteps_of_the_model(folder: Path):
    config = folder / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"n": 12', '"n": 4'), encoding="utf-8")
    Path("sweep.toml").write_text(TOML.replace("steps = 10", "steps = 4"), encoding="utf-8")
    assert [cell.steps for cell in load_plan("sweep.toml").cells] == [4]


def test_a_sweep_reads_the_headers_of_its_model_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    counts = {"read": 0, "locate": 0}

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            counts[name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(layouts, "read", counted("read", layouts.read))
    monkeypatch.setattr(model_loader, "locate", counted("locate", model_loader.locate))
    assert run(TOML.replace("steps = 10", "steps = 1"))[0] == 0
    assert counts == {"read": 1, "locate": 1}


def test_a_plan_from_json_opens_its_model_on_first_use(folder: Path):
    Path("sweep.toml").write_text(TOML, encoding="utf-8")
    plan = load_plan("sweep.toml")
    text = plan.model_dump_json()
    levels = plan.opened.levels
    shutil.move(folder, folder.with_name("away"))
    again = type(plan).model_validate_json(text)
    assert (again.cells, again.source, again.model) == (plan.cells, plan.source, "mine")
    shutil.move(folder.with_name("away"), folder)
    assert again.opened.levels == levels


def test_files_that_are_missing_are_reported_by_the_check_and_hide_no_other_mistake(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    (folder / "unet.safetensors").unlink()
    assert open_model("mine", {}, Path()).check("cpu", False)[0] == "model 'mine': unet.safetensors not found in mine/"
    assert run(TOML.replace('"ddim"', '"dimm"'))[0] == 2
    assert "cells.sampler" in capsys.readouterr().err
    assert run(TOML)[0] == 2
    assert "unet.safetensors not found in mine/" in capsys.readouterr().err


def test_a_weight_file_that_does_not_fit_fails_before_it_is_loaded(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "unet.safetensors").unlink()
    (folder / "unet.safetensors").symlink_to(find("data/scenes/vae.safetensors").resolve())
    assert run(TOML, dry_run=True)[0] == 1
    assert "unknown tensor" in capsys.readouterr().err


def test_options_are_the_paths_of_files():
    with pytest.raises(Mistakes, match=r"unknown key 'vocabs' \(did you mean 'vocab'\?\); known: merges, name"):
        open_model("sd15", {"vocabs": "x"}, Path())
