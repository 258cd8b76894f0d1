"""Failures of samplers, grids, strategies and models. The cell fails with one line, and the sweep continues."""

from __future__ import annotations

import io
import sqlite3
import textwrap
from pathlib import Path

import pytest
import torch
from rich.console import Console

import samplers
from sdlab.commands.sweep import sweep
from sdlab.metrics.meters import Measurement
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.sweep.plan import load_plan

CUSTOM = """
    import builtins
    import sys
    from dataclasses import dataclass

    import torch

    import samplers
    from sdlab.backends.custom_model import CustomModel
    from sdlab.guidance import Query


    def fail(error):
        if error == "exit":
            sys.exit(3)
        if error == "next":
            next(iter(()))
        raise getattr(builtins, error)("too low\\nfor this")


    @dataclass(frozen=True)
    class Late(samplers.Sampler):
        error: str = "ValueError"

        def step(self, denoise, x, sigma, sigma_next, memory, noise):
            print("printed by a plug-in")
            if sigma < 0.2 and len(x) > 2:
                fail(self.error)
            return denoise(x, sigma), None


    @dataclass(frozen=True)
    class Shrinks(samplers.Sampler):
        what: str = "row"

        def step(self, denoise, x, sigma, sigma_next, memory, noise):
            x0 = denoise(x, sigma)
            if len(x) < 3:
                return x0, None
            return {"row": (x0[:1], None), "alone": x0, "nothing": None}[self.what]


    @dataclass(frozen=True)
    class Nan(samplers.Sampler):
        def step(self, denoise, x, sigma, sigma_next, memory, noise):
            return denoise(x, sigma) * (float("nan") if len(x) > 2 else 1), None


    @dataclass(frozen=True)
    class Strategy:
        fault: str = "KeyError"

        def queries(self, sigma):
            if self.fault == "queries" and sigma < 0.2:
                return None
            return (Query("cond"),)

        def combine(self, predictions, x, sigma, state):
            x0 = predictions[0]
            if self.fault not in ("none", "no") and sigma < 0.2 and len(x) > 2:
                if self.fault in ("mean", "nothing"):
                    return {"mean": x0.mean(0), "nothing": None}[self.fault], None
                fail(self.fault)
            return x0, None


    def late(steps, levels):
        if steps > 4:
            raise KeyError("no more than four")
        return samplers.grid("karras", steps=steps, levels=levels)[:-1]


    def rising(steps, levels):
        sigmas = samplers.grid("karras", steps=steps, levels=levels)[:-1]
        return sigmas[::-1] if steps > 4 else sigmas


    def model(error: str = "nan", below: float = 0.2):
        def denoise(x, sigma):
            if len(x) > 2 and float(torch.as_tensor(sigma).min()) < below:
                if error != "nan":
                    fail(error)
                return x * float("nan")
            return x / (1 + torch.as_tensor(sigma).reshape(-1, *[1] * (x.ndim - 1)) ** 2)

        levels = samplers.continuous_levels(0.05, 10.0)
        return CustomModel(denoise, levels, (3, 1, 1), decode=lambda x: x.clamp(-1, 1))
"""
METRICS = 'metrics = ["reference_error"]\n'
HEAD = f'images = 3\ndevice = "cpu"\n{METRICS}'
pytestmark = pytest.mark.usefixtures("no_files")  # reports are tested elsewhere
GAUSSIAN = f'model = "gaussian"\n{HEAD}[cells]\n'
STEPS = 'grid = "karras"\nsteps = 8\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(textwrap.dedent(CUSTOM), encoding="utf-8")


def run(toml: str, **options: object) -> tuple[int, str]:
    Path("s.toml").write_text(toml, encoding="utf-8")
    console = Console(file=io.StringIO(), width=300)
    status = sweep("s.toml", identify, ModelBench, console=console, **options)  # type: ignore[arg-type]
    return status, console.file.getvalue()  # type: ignore[attr-defined]


def outcomes() -> list[tuple[str, str]]:
    """(status, reason) of every cell in the store, in the order in which they ran."""
    with sqlite3.connect("runs/s/results.sqlite") as store:
        return store.execute("select status, reason from cells order by created").fetchall()


def one_failed(toml: str, *reasons: str) -> str:
    """The log of a sweep in which the second of three cells fails, for these reasons."""
    status, out = run(toml)
    found = outcomes()
    assert status == 1
    assert [status for status, _ in found] == ["ok", "failed", "ok"]
    assert all(reason in found[1][1] for reason in reasons), found[1][1]
    assert "\n" not in found[1][1]
    assert "1 of 3 cells failed, 2 are done" in out
    log = Path("runs/s/errors.log")
    return log.read_text(encoding="utf-8") if log.exists() else ""


def guided(fault: str) -> str:
    """A sweep of three strategies. The second has this fault, the others have none."""
    strategies = ", ".join(f'{{path = "mine.py:Strategy", fault = "{name}"}}' for name in ("none", fault, "no"))
    head = f'model = {{path = "mine.py:model", below = 0.0}}\n{HEAD.replace(METRICS, "")}'
    return f'{head}[cells]\nsampler = "euler"\nguidance = [{strategies}]\n{STEPS}'


ERRORS = {
    "ValueError": "ValueError: too low for this (line ",
    "RuntimeError": "RuntimeError: too low for this (line ",
    "ZeroDivisionError": "ZeroDivisionError: too low for this (line ",
    "IndexError": "IndexError: too low for this (line ",
    "KeyError": "KeyError: ",
    "AssertionError": "AssertionError: too low for this (line ",
    "OSError": "OSError: too low for this (line ",
    "NotImplementedError": "NotImplementedError: too low for this (line ",
    "exit": "SystemExit: 3 (line ",
    "next": "StopIteration (line ",
    "GeneratorExit": "GeneratorExit: too low for this (line ",
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind", ["sampler", "guidance", "model"])
def test_any_error_of_custom_code_fails_its_cell_alone(kind: str, error: str):
    if kind == "sampler":
        toml = f'{GAUSSIAN}sampler = ["euler", {{path = "mine.py:Late", error = "{error}"}}, "heun"]\n{STEPS}'
    elif kind == "guidance":
        toml = guided(error)
    else:  # which fails at levels that only one of the grids reaches
        toml = f'model = {{path = "mine.py:model", error = "{error}"}}\n{HEAD}[cells]\nsampler = "euler"\nsteps = 2\n'
        high, low = (f'{{name = "explicit", sigmas = [5.0, {last}]}}' for last in (1.0, 0.1))
        toml = f"{toml.replace(METRICS, '')}grid = [{high}, {low}, {high.replace('5', '4')}]\n"
    log = one_failed(toml, ERRORS[error], "of mine.py)")
    assert "Traceback (most recent call last)" in log
    assert 'mine.py", line' in log


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("row", "step 1 turns x of shape (3, 3) into (1, 3)"),
        ("alone", "step 1 must return (x, memory), got Tensor"),
        ("nothing", "step 1 must return (x, memory), got NoneType"),
    ],
)
def test_a_sampler_that_returns_something_else_in_the_middle_fails_its_cell(what: str, reason: str):
    one_failed(f'{GAUSSIAN}sampler = ["euler", {{path = "mine.py:Shrinks", what = "{what}"}}, "heun"]\n{STEPS}', reason)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("mean", "combine turns predictions of shape (3, 3, 1, 1) into (3, 1, 1)"),  # which would broadcast
        ("nothing", "combine turns predictions of shape (3, 3, 1, 1) into NoneType"),
        ("queries", "TypeError: "),
    ],
)
def test_a_strategy_that_returns_something_else_in_the_middle_fails_its_cell(fault: str, reason: str):
    one_failed(guided(fault), reason)


@pytest.mark.parametrize(
    ("grid", "reason"), [("late", "KeyError: 'no more than four' (line"), ("rising", "grid 'mine.py:rising'")]
)
def test_a_grid_that_fails_with_some_steps_fails_those_cells(grid: str, reason: str):
    toml = f'{GAUSSIAN}sampler = "euler"\ngrid = {{path = "mine.py:{grid}"}}\nsteps = [3, 8, 4]\n'
    log = one_failed(toml, reason)
    assert "Traceback" in log
    status, out = run(toml.replace("8", "9"), dry_run=True)
    assert status == 0
    assert "cannot run" in out
    assert reason in out


def test_nan_at_low_levels_fails_the_cell_with_the_seed():
    toml = f'{GAUSSIAN}sampler = ["euler", {{path = "mine.py:Nan"}}, "heun"]\n{STEPS}'
    log = one_failed(toml, "the model returned NaN or infinity in the samples of 3 of 3 images, the first with seed 0")
    assert log == ""  # there is nothing to trace
    toml = 'model = "mine.py:model"\nimages = 3\ndevice = "cpu"\nmetrics = ["reference_error"]\n[cells]\nsteps = 6\n'
    status, _ = run(toml + 'sampler = ["euler", "dpm_adaptive"]\ngrid = "karras"\n')
    assert status == 1
    assert [found[0] for found in outcomes()[-2:]] == ["failed", "failed"]


def test_a_tolerance_below_the_precision_is_a_failed_cell_and_a_note_in_a_dry_run():
    toml = f'{GAUSSIAN}sampler = ["euler", {{name = "dpm_adaptive", rtol = 1e-7}}, "heun"]\n{STEPS}'
    reason = "DPMSolverAdaptive.rtol must be at least 1.2e-07, the precision of torch.float32, got 1e-07"
    status, out = run(toml, dry_run=True)
    assert status == 0
    assert f"note: dpm_adaptive rtol=1e-07 · karras · none · 8 steps: {reason}" in out
    assert "3 of 3 cells to run" in out
    one_failed(toml, reason)


def test_memory_that_runs_out_in_custom_code_is_reported_as_that():
    one_failed(
        f'{GAUSSIAN}sampler = ["euler", {{path = "mine.py:Late", error = "MemoryError"}}, "heun"]\n{STEPS}',
        "out of memory; use a smaller batch",
    )


def bench() -> ModelBench:
    Path("s.toml").write_text(f'{GAUSSIAN}sampler = "euler"\n{STEPS}', encoding="utf-8")
    return ModelBench(load_plan("s.toml"))


def test_an_error_of_sdlab_is_not_attributed_to_the_sampler(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise OSError("no space left")

    made = bench()
    with pytest.raises(OSError, match="no space left"):  # of the progress bar, called from inside the sampling loop
        made.run(made.plan.cells[0], broken, range(3))
    monkeypatch.setattr(Measurement, "update", broken)
    with pytest.raises(OSError, match="no space left"):
        made.run(made.plan.cells[0], lambda share: None, range(3))


def test_an_interrupt_in_the_middle_of_a_sampler_is_one(monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    made = bench()
    monkeypatch.setattr(samplers.SAMPLERS["euler"], "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.run(made.plan.cells[0], lambda share: None, range(3))


def test_pictures_are_checked_too_and_another_dtype_is_suggested(monkeypatch: pytest.MonkeyPatch):
    Path("s.toml").write_text(
        'model = "data_set"\nimages = 3\nbatch = 2\ndevice = "cpu"\n[cells]\nsampler = "euler"\nsteps = 2\n', "utf-8"
    )
    made = ModelBench(load_plan("s.toml"))
    object.__setattr__(made.backend.model, "decode", lambda x: x / torch.zeros(()))  # type: ignore[attr-defined]
    with pytest.raises(Exception, match=r"NaN or infinity in the pictures of 2 of 2 images, the first with seed 0$"):
        made.run(made.plan.cells[0], lambda share: None, range(3))
