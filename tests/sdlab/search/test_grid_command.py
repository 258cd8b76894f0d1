"""`sdlab grid`: what it finds on an exact model, its sweep, and its mistakes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from sdlab.commands.grid import find
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.sweep.plan import load_plan
from sdlab.sweep.store import Store


def grid(
    folder: Path, model: str = "mixture", steps: int = 5, prompts: str | None = None, images: int = 32, **choices: str
) -> tuple[int, str]:
    """Find a grid: the exit status, and what is printed."""
    given = {"model": model, "images": images, "seed": 0, "batch": 32, "device": "cpu", "dtype": "float32"}
    console = Console(file=io.StringIO(), width=250)
    chosen = {"sampler": "euler", "guidance": "none", **choices}
    status = find(given, chosen, steps, prompts, identify, ModelBench, out=folder, console=console)
    return status, console.file.getvalue()  # type: ignore[attr-defined]


def test_the_grid_found_is_better_than_others_on_other_images_and_ready_to_sweep(tmp_path: Path):
    status, text = grid(tmp_path)
    assert status == 0
    directory = tmp_path / "grid_mixture_euler_5"
    with Store(directory / "results.sqlite") as store:
        rows = store.rows()
    errors = {row.cell.grid.label: row.metrics["reference_error"] for row in rows}
    found = {name: error for name, error in errors.items() if name.startswith("explicit")}
    others = {name: error for name, error in errors.items() if name not in found}
    assert set(others) == {"exponential", "karras", "trailing"}
    assert min(found.values()) < 0.8 * min(others.values())
    assert [row.provenance["first_seed"] for row in rows] == [16] * len(rows)  # the second half of 32
    plan = load_plan(directory / "grid.toml")
    assert [cell.complete() for cell in plan.cells] == [row.cell.complete() for row in rows]
    assert (plan.seed, plan.images) == (32, 32)
    for row in rows[: len(found)]:
        printed = ", ".join(map(repr, row.cell.grid.options["sigmas"]))
        assert f'grid = {{ name = "explicit", sigmas = [{printed}] }}' in text


def test_the_grid_depends_on_the_sampler_and_the_guidance(tmp_path: Path):
    grid(tmp_path / "a", "class_mixture")
    grid(tmp_path / "b", "class_mixture", guidance="cfg scale=4")
    one, other = (load_plan(tmp_path / name / "grid_class_mixture_euler_5/grid.toml").cells[0] for name in "ab")
    assert one.grid != other.grid


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "mixtrue"}, "--model: unknown model 'mixtrue'"),
        ({"steps": 1}, "--steps must be from 2 to 100, got 1"),
        ({"images": 8}, "--images must be from 16 to 4096, got 8"),
        ({"sampler": "eular"}, "--sampler: unknown sampler 'eular' (did you mean 'euler'?)"),
        ({"sampler": "ddpm"}, "--sampler: ddpm draws noise, so its samples follow no path"),
        ({"sampler": "euler x"}, "--sampler: options are written key=value"),
        ({"guidance": "cfg scael=2"}, "--guidance.scael: unknown option of cfg"),
        ({"model": "scenes", "prompts": "no.txt"}, "--prompts: {folder}/no.txt: no such file"),
        ({"model": "sd15"}, "--prompts: missing; name a set of prompts, like scenes, or a text file of them"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: dict, message: str
):
    monkeypatch.chdir(tmp_path)
    assert grid(tmp_path, **options)[0] == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"error: {message.replace('{folder}', str(tmp_path))}") for line in lines), lines
    assert not list(tmp_path.iterdir())
