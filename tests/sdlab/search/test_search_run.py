"""Searches on made-up values and on an exact model: continuing, the front, its values on other images, its sweep."""

from __future__ import annotations

import io
import random
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fake_bench import FakeBench, no_bench
from rich.console import Console

from sdlab.commands.search import search
from sdlab.metrics import METRICS
from sdlab.search.front import front_of
from sdlab.search.space import Span
from sdlab.search.study import Study
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.cell import Cell, Choice, canonical
from sdlab.sweep.identity import identify
from sdlab.sweep.plan import Plan, load_plan
from sdlab.sweep.results import CellFailed
from sdlab.sweep.run import run_sweep
from sdlab.sweep.store import Row, Store

pytest.importorskip("optuna")

TOML = """
model = "scenes"
images = 32
device = "cpu"
metrics = ["clip_score", "fid"]
[search]
trials = 12
[prompts]
list = ["a red circle", "a blue star", "a green moon"]
[cells]
sampler = ["ddim", "heun"]
guidance = ["none", { name = "cfg", scale = { from = 1.0, to = 8.0 } }]
steps = { from = 5, to = 20 }
"""
Run = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Search: exit status, what is printed, the labels of the cells that were run."""

    def run_it(bench: FakeBench | None = None, toml: str = TOML, out: str = "runs", **options: object):
        (tmp_path / "quick.toml").write_text(toml, encoding="utf-8")
        bench, console = bench or FakeBench(), Console(file=io.StringIO(), width=200)
        options = {"open_bench": lambda plan: bench, "identify": lambda plan: "weights", **options}
        status = search(tmp_path / "quick.toml", out=tmp_path / out, console=console, **options)  # type: ignore[arg-type]
        return status, console.file.getvalue(), bench.ran  # type: ignore[attr-defined]

    return run_it


def stop_at(count: int) -> FakeBench:
    """A bench that is interrupted in the middle of a cell."""
    bench = FakeBench()

    def before(cell: Cell) -> None:
        if len(bench.ran) == count:
            raise KeyboardInterrupt

    bench.before = before
    return bench


def test_a_search_measures_as_many_cells_as_asked_and_then_the_front(run: Run, tmp_path: Path):
    status, text, ran = run()
    assert status == 0
    trials, front = ran[:12], ran[12:]
    assert len(set(trials)) == 12
    assert front
    assert set(front) <= set(trials)
    assert "95 % interval" in text
    assert {path.name for path in (tmp_path / "runs/quick").iterdir()} >= {
        "front.md",
        "front.png",
        "front.toml",
        "study.sqlite",
    }


def test_a_finished_search_runs_nothing_again(run: Run):
    _, text, _ = run()
    status, again, ran = run(open_bench=no_bench)
    assert (status, ran) == (0, [])
    table = text[text.index("quick: the front of") :]
    assert again.endswith(table)


def test_the_proposals_after_an_interruption_are_those_without_one(run: Run):
    _, _, whole = run(out="whole")
    status, text, first = run(stop_at(5))
    assert status == 130
    assert "interrupted: 5 of 12 trials are kept" in text
    _, _, rest = run()
    assert first + rest == whole


@pytest.mark.parametrize("last", ["asked", "noted"])
def test_a_trial_in_which_the_process_was_killed_is_proposed_again(tmp_path: Path, last: str):
    """Also if it was killed between the two writes at the end of the trial."""

    def number(study: Study) -> float:
        proposed = study.ask()
        value = proposed.number("steps", Span(5, 2000))
        study.tell(proposed, str(value), (value, value % 7))
        return value

    with Study(tmp_path / "whole.sqlite", "a", 0, higher=True) as study:
        whole = [number(study) for _ in range(14)]
    with Study(tmp_path / "parts.sqlite", "a", 0, higher=True) as study:
        found = [number(study) for _ in range(12)]
        killed = study.ask()
        killed.number("steps", Span(5, 2000))
        if last == "noted":
            killed.trial.set_user_attr("key", "killed")
    for _ in range(2):
        with Study(tmp_path / "parts.sqlite", "a", 0, higher=True) as study:
            assert "killed" not in study.keys
            found.append(number(study))
    assert found == whole


def test_more_trials_continue_a_search(run: Run):
    _, _, whole = run(out="whole", overrides={"trials": 9})
    _, _, first = run(overrides={"trials": 4})
    _, _, rest = run(overrides={"trials": 9})
    assert first[:4] + rest[:5] == whole[:9]


def test_the_cells_of_an_edited_search_are_taken_from_the_store(run: Run):
    _, _, first = run(overrides={"trials": 6})
    finite = TOML.replace("{ from = 5, to = 20 }", "[5, 6]").replace("{ from = 1.0, to = 8.0 }", "3.0")
    _, text, ran = run(toml=finite)
    assert "there are 8 cells in the ranges; all have been measured" in text
    assert len(set(ran)) == len(set(ran) - set(first[:6]))
    _, _, again = run(toml=finite, open_bench=no_bench)
    assert again == []


def test_a_cell_that_fails_is_left_out_and_the_search_goes_on(run: Run):
    def fails(cell: Cell) -> None:
        if cell.sampler.name == "heun":
            raise CellFailed("a NaN")

    status, text, ran = run(FakeBench(fails))
    assert status == 1
    assert "a NaN" in text
    assert all("ddim" in label for label in ran)


def test_a_search_in_which_all_fails_says_so(run: Run, capsys: pytest.CaptureFixture[str]):
    def fails(cell: Cell) -> None:
        raise CellFailed("a NaN")

    assert run(FakeBench(fails))[0] == 1
    assert "error: all 12 trials failed" in capsys.readouterr().err


def test_options_that_do_not_go_together_are_failed_trials(run: Run):
    given = '{ name = "cfg", interval = [{ from = 0.1, to = 4.0 }, { from = 0.2, to = 5.0 }] }'
    toml = TOML.replace('["none", { name = "cfg", scale = { from = 1.0, to = 8.0 } }]', given)
    status, text, ran = run(toml=toml)
    assert status == 1
    assert "✗" in text
    assert 0 < len(set(ran)) < 12


def test_the_front_has_every_row_that_no_other_beats():
    draw = random.Random(0)
    for name, sign in (("fid", 1), ("clip_score", -1)):
        rows = [row(draw.randint(1, 9), float(draw.randint(1, 9)), name) for _ in range(40)]
        points = [(one.network_passes, sign * one.metrics[name]) for one in rows]
        best = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
        found = [(one.network_passes, sign * one.metrics[name]) for one in front_of(rows, METRICS[name])]
        assert found == sorted(best)


def row(passes: float, value: float, name: str) -> Row:
    one = Choice(name="ddim")
    return Row("", Cell(sampler=one, grid=one, guidance=one, steps=1), metrics={name: value}, network_passes=passes)


def test_the_front_is_measured_on_the_images_after_those_of_the_trials(run: Run, tmp_path: Path):
    """Both halves together have the values of one sweep of all images."""
    toml = 'model = "gaussian"\nimages = 32\ndevice = "cpu"\nmetrics = "reference_error"\n[search]\ntrials = 8\n'
    toml += '[cells]\nsampler = ["euler", "heun"]\ngrid = "karras"\nsteps = { from = 3, to = 9 }\n'
    status, _, _ = run(toml=toml, identify=identify, open_bench=ModelBench)
    assert status == 0
    with Store(tmp_path / "runs/quick/results.sqlite") as store:
        trials = {canonical(one.cell.complete()): one for one in store.rows()}
    with Store(tmp_path / "runs/quick/front/results.sqlite") as store:
        front = store.rows()
    whole = plan_like(tmp_path, toml, [one.cell for one in front])
    run_sweep(whole, "weights", lambda: ModelBench(whole), tmp_path / "whole", Console(quiet=True))
    with Store(tmp_path / "whole/results.sqlite") as store:
        for one, both in zip(front, store.rows(), strict=True):
            halves = [trials[canonical(one.cell.complete())], one]
            values = [value for half in halves for value in half.per_image["reference_error"]]
            assert values == pytest.approx(list(both.per_image["reference_error"]), rel=1e-6)


def plan_like(folder: Path, toml: str, cells: list[Cell]) -> Plan:
    file = folder / "whole.toml"
    text = toml.replace("[search]\ntrials = 8\n", "").replace("{ from = 3, to = 9 }", "3")
    file.write_text(text, encoding="utf-8")
    return load_plan(file).model_copy(update={"cells": tuple(cells)})


def test_the_file_of_the_front_is_a_sweep_of_its_cells_on_new_seeds(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom samplers.euler import Euler\n\n"
        "@dataclass(frozen=True)\nclass Mine(Euler):\n    pass\n",
        encoding="utf-8",
    )
    toml = TOML.replace('"heun"]', '{ path = "mine.py:Mine" }]').replace("cells]\n", "cells]\n#\n")
    _, _, ran = run(toml=toml)
    monkeypatch.chdir("/")
    plan = load_plan(tmp_path / "runs/quick/front.toml")
    assert (plan.name, plan.images, plan.seed, plan.metrics) == ("quick_front", 32, 32, ("clip_score", "fid"))
    with Store(tmp_path / "runs/quick/front/results.sqlite") as store:
        cells = [one.cell for one in store.rows()]
    assert len(plan.cells) == len(ran) - 12 == len(cells)
    assert [cell.steps for cell in plan.cells] == [cell.steps for cell in cells]
    assert [cell.guidance for cell in plan.cells] == [cell.guidance for cell in cells]


def test_a_dry_run_writes_nothing(run: Run, tmp_path: Path):
    status, text, ran = run(dry_run=True, open_bench=no_bench)
    assert (status, ran) == (0, [])
    assert "cfg scale=1…8" in text
    assert "12 trials of 16 images" in text
    assert not (tmp_path / "runs").exists()


def test_without_optuna_one_line_says_how_to_install_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert run(open_bench=no_bench)[0] == 2
    assert capsys.readouterr().err == (
        "error: sdlab search needs optuna, which is not installed; run: pip install 'sdlab[search]'\n"
    )


@pytest.mark.parametrize("damage", ["text", "link"])
def test_a_damaged_study_is_one_line(run: Run, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]):
    study = tmp_path / "runs/quick/study.sqlite"
    study.parent.mkdir(parents=True)
    if damage == "text":
        study.write_bytes(b"no database " * 1000)
    else:
        study.symlink_to(tmp_path / "elsewhere")
    assert run()[0] == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "study.sqlite" in line


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE trial_user_attributes SET value_json = '['",
        "UPDATE trial_params SET param_value = 1e300",
        "UPDATE trial_params SET distribution_json = '{}'",
        "UPDATE trials SET state = 'LOST'",
        "DROP TABLE trial_values",
    ],
)
def test_a_study_with_odd_values_is_one_line(run: Run, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]):
    few = TOML.replace("trials = 12", "trials = 3")
    assert run(toml=few)[0] == 0
    study = tmp_path / "runs/quick/study.sqlite"
    with closing(sqlite3.connect(study)) as db, db:
        db.execute(damage)
    capsys.readouterr()
    assert run(toml=TOML)[0] == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cannot use {study}: ")
    assert line.endswith("; move it away to search again")
