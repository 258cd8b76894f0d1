"""Training in two processes: the same result as one process with all their batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training import QUIET, TINY, keys, write
from two_processes import STEPS, Adversarial, Regression, toy

from sdlab.train import run, run_all
from sdlab.train.loop import train
from sdlab.weights.model_folder import save_config


def torchrun(*arguments: str) -> None:
    """Two processes on this machine, restarted once if one fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = os.pathsep.join([str(Path.cwd()), str(Path("tests/support").resolve())])
    more = ["--max-restarts", "1", "--monitor-interval", "0.1"]
    found = subprocess.run(
        [*command, *more, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr


pytestmark = pytest.mark.slow  # each run starts processes that import PyTorch


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    torchrun("tests/support/two_processes.py", str(folder))
    return folder


def saved(out: Path) -> dict[str, dict[str, Tensor]]:
    """The weights and averages of each module in the checkpoint, which is of the last step."""
    state = torch.load(out / "checkpoint.pt")
    assert state["step"] == STEPS
    return {
        f"{name} {part}": weights
        for name, one in state["trained"].items()
        for part, weights in {"module": one["module"], **one["averages"]}.items()
    }


def log(out: Path) -> list[list[float]]:
    return [[float(value) for value in line.split(",")] for line in (out / "log.csv").read_text().split("\n")[1:-1]]


@pytest.mark.parametrize(("name", "accumulate", "joined"), [("plain", 1, 2), ("plain", 2, 1), ("more", 1, 4)])
def test_two_processes_are_one_with_the_larger_batch(
    runs: Path, tmp_path: Path, name: str, accumulate: int, joined: int
):
    """To the rounding of sums in another order: 30 steps of gradient descent in float32."""
    config = toy(tmp_path, accumulate=accumulate)
    train(Regression(config, joined), config, QUIET)
    torch.testing.assert_close(saved(runs / name / "out"), saved(config.out), rtol=0, atol=1e-6)
    for ours, theirs in zip(log(runs / name / "out"), log(config.out), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_two_modules_in_turn_are_averaged_too(runs: Path, tmp_path: Path):
    """AdamW divides by the size of gradients, so rounding grows more than in gradient descent."""
    config = toy(tmp_path, accumulate=2)
    train(Adversarial(config), config, QUIET)
    torch.testing.assert_close(saved(runs / "gan" / "out"), saved(config.out), rtol=1e-3, atol=1e-4)
    alone = toy(tmp_path / "alone")
    train(Adversarial(alone), alone, QUIET)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(saved(alone.out), saved(config.out), rtol=1e-2, atol=1e-3)


def test_the_first_process_alone_writes_files(runs: Path):
    names = sorted(path.name for path in (runs / "gan" / "out").iterdir())
    assert names == ["averages", "checkpoint.1.pt", "checkpoint.pt", "log.csv", "losses.png"]
    assert len(log(runs / "gan" / "out")) == 4


def test_a_signal_to_one_process_stops_all_at_the_same_step(runs: Path):
    assert (runs / "stopped.0").exists()
    assert (runs / "stopped.1").exists()
    assert torch.load(runs / "signalled" / "out" / "checkpoint.pt")["step"] == 18


def test_a_restart_continues_to_the_same_weights(runs: Path):
    """The second process died at step 17, and torchrun started both again from step 10."""
    assert (runs / "crashed" / "out" / "log.csv").read_text() == (runs / "plain" / "out" / "log.csv").read_text()
    crashed, plain = saved(runs / "crashed" / "out"), saved(runs / "plain" / "out")
    assert all(value.equal(plain[part][key]) for part, one in crashed.items() for key, value in one.items())


def test_a_recipe_runs_in_two_processes(tmp_path: Path):
    """All stages in order, each on what the first process has written of those before, and nothing twice."""
    stages = "".join(f"[{name}]\nsteps = 3\nbatch = 2\nlr = 1e-4\n" for name in ("text", "vae", "unet"))
    for name, accumulate in (("two", 1), ("one", 2)):
        folder = tmp_path / name
        save_config(folder / "model", TINY)
        path = folder / "recipe.toml"
        shared = f'model = "{folder}/model"\nout = "{folder}/out"\nprecision = "float32"\naccumulate = {accumulate}\n'
        path.write_text(shared + stages)
        if name == "one":
            list(run_all(path, QUIET))
        else:
            torchrun("-m", "sdlab", "train", str(path))
            before = (folder / "model/unet.safetensors").stat().st_mtime_ns
            torchrun("-m", "sdlab", "train", str(path))
            assert (folder / "model/unet.safetensors").stat().st_mtime_ns == before
    for stage in ("text", "vae", "unet"):
        states = [
            next(iter(torch.load(tmp_path / name / "out" / stage / "checkpoint.pt")["trained"].values()))["module"]
            for name in ("two", "one")
        ]
        torch.testing.assert_close(*states, rtol=0, atol=2e-5)


def test_the_command_runs_in_two_processes(tmp_path: Path):
    """The VAE with AdamW: bfloat16 is off, so the two results differ by rounding alone."""
    for name, changes in (("two", {}), ("one", {"accumulate": 2})):
        folder = tmp_path / name
        save_config(folder / "model", TINY)
        path = write(folder / "vae.toml", "vae", keys(folder, steps=3, batch=2, lr=1e-4, **changes))
        if changes:
            run("vae", path, QUIET)
        else:
            torchrun("-m", "sdlab", "train", "vae", str(path))
    states = [
        torch.load(tmp_path / name / "out" / "checkpoint.pt")["trained"]["vae"]["module"] for name in ("two", "one")
    ]
    torch.testing.assert_close(*states, rtol=0, atol=2e-5)
    assert (tmp_path / "two" / "model" / "vae.safetensors").exists()


LOST = """
import os
from sdlab.system.errors import RunError
from sdlab.train import processes

try:
    with processes.joined():
        processes.wait()
        if processes.rank() == 1:
            os._exit(0)
        processes.wait()
except RunError as error:
    print("reported:", error)
"""


def test_the_loss_of_another_process_is_one_line(tmp_path: Path):
    (tmp_path / "lost.py").write_text(LOST)
    found = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "lost.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "reported: another process of this run has ended or cannot be reached; see its error." in found.stdout
    assert "Traceback" not in found.stderr
