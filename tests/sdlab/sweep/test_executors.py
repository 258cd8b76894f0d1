"""Sweeps in real workers. One is killed in the middle: nothing is lost, and every number is that of one process."""

import multiprocessing
import os
from pathlib import Path

import pytest
from rich.console import Console
from same_values import assert_same_values

from sdlab.commands.sweep import sweep
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.sweep.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_files")]

TOML = """
model = "gaussian"
images = 96
device = "cpu"
metrics = ["reference_error", "w2"]

[cells]
sampler = ["heun", { path = "fragile.py:Fragile" }]
steps = [2, 5]
"""
FRAGILE = '''
import os, signal
from dataclasses import dataclass
from pathlib import Path
from samplers import Euler

HERE = Path(__file__).parent

@dataclass(frozen=True)
class Fragile(Euler):
    """Euler's method. The first worker that draws a batch with it is killed."""

    def step(self, denoise, x, sigma, sigma_next, memory, noise):
        if len(x) >= 32 and os.getpid() != int((HERE / "runner").read_text()) and not (HERE / "killed").exists():
            (HERE / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(denoise, x, sigma, sigma_next, memory, noise)
'''
EXECUTORS = {
    "devices": {"overrides": {"device": ["cpu", "cpu"]}},
    "submitit": {"executor": "submitit workers=2 cluster=local"},
    "ray": {"executor": "ray workers=2"},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "fragile.py").write_text(FRAGILE, encoding="utf-8")
    (tmp_path / "runner").write_text(str(os.getpid()), encoding="utf-8")
    path = tmp_path / "quick.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


def run(file: Path, out: str, **options: object) -> int:
    return sweep(file, identify, ModelBench, out=file.parent / out, console=Console(quiet=True), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(EXECUTORS))
def test_a_killed_worker_loses_nothing_and_changes_no_number(file, name, capsys):
    if name != "devices":
        pytest.importorskip(name)
    assert run(file, "one") == 0
    assert run(file, name, **EXECUTORS[name]) == 0
    assert (file.parent / "killed").exists()
    assert "the cell is run again" in capsys.readouterr().err
    assert_same_values(file.parent / "one" / "quick", file.parent / name / "quick")
    with Store(file.parent / name / "quick" / "results.sqlite", only_read=True) as store:
        assert all(row.provenance["at_once"] for row in store.rows())
    assert not list((file.parent / name / "quick").glob("submitit/worker-*"))
    assert not multiprocessing.active_children()


def test_an_interrupted_sweep_keeps_its_finished_cells_and_ends_its_workers(file, monkeypatch):
    (file.parent / "killed").touch()  # no worker is killed here

    def interrupt(self: object, key: str, *rest: object) -> None:
        add(self, key, *rest)
        raise KeyboardInterrupt

    add = Store.add
    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", interrupt)
        assert run(file, "two", **EXECUTORS["devices"]) == 130
    assert not multiprocessing.active_children()
    with Store(file.parent / "two" / "quick" / "results.sqlite", only_read=True) as store:
        assert len(store.rows()) == 1
    assert run(file, "two", **EXECUTORS["devices"]) == 0
    assert run(file, "one") == 0
    assert_same_values(file.parent / "one" / "quick", file.parent / "two" / "quick")


def test_a_worker_with_other_files_ends_the_sweep_with_one_line(file, capsys):
    other = lambda plan: "gaussian 0123456789abcdef"  # noqa: E731
    options = {"out": file.parent / "three", "console": Console(quiet=True), "overrides": {"device": ["cpu", "cpu"]}}
    assert sweep(file, other, ModelBench, **options) == 2  # type: ignore[arg-type]
    [line] = capsys.readouterr().err.splitlines()
    assert "has other files of the model, the metrics or the pictures" in line


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto", "nonsense"])
def test_a_ray_cluster_that_is_not_there_is_one_line(file, address, capsys):
    pytest.importorskip("ray")
    assert run(file, "four", executor=f"ray address={address}") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: --executor: there is no Ray cluster at {address} (")
    assert line.endswith("start one with `ray start --head`, or leave out `address` to start one on this machine")
