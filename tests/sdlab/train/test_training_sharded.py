"""Training with a network sharded over processes: the same result as one process with all their batches."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from sharded_processes import RUNS, STEPS, Layers, Sharding, toy
from torch import Tensor
from training import QUIET, TINY, keys, write

from sdlab.model.diffusion import Unet
from sdlab.system.errors import UsageError
from sdlab.train import run, run_all
from sdlab.train.loop import train
from sdlab.train.optimizer import standard
from sdlab.train.stage import Loss, Stage
from sdlab.weights.model_folder import save_config


def torchrun(*arguments: str) -> None:
    """Two processes on this machine, restarted once if one fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = os.pathsep.join([str(Path.cwd()), str(Path("tests/support").resolve())])
    more = ["--max-restarts", "1", "--monitor-interval", "0.1"]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    found = subprocess.run([*command, *more, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def alone(folder: Path, **changes: object) -> dict[str, float]:
    config = toy(folder, **changes)
    return {name: value for name, value in train(Layers(config), config, QUIET).items() if name != "train_minutes"}


def until_step_20(folder: Path, **changes: object) -> None:
    """A run whose newest checkpoint is that of step 20."""
    alone(folder, **changes)
    (folder / "out/checkpoint.pt").unlink()


def checkpoint(out: Path) -> dict[str, dict[str, Tensor]]:
    """The weights and averages in the checkpoint, which is of the last step."""
    state = torch.load(out / "checkpoint.pt")
    assert state["step"] == STEPS
    net = state["trained"]["net"]
    return {"weights": dict(net["module"]), **net["averages"]}


def log(folder: Path) -> list[list[float]]:
    return [
        [float(value) for value in line.split(",")] for line in (folder / "out/log.csv").read_text().split("\n")[1:-1]
    ]


def assert_same(folder: Path, other: Path, *, atol: float = 1e-5, rel: float = 1e-4) -> None:
    """Weights, averages and losses are equal to the rounding of sums in another order, which AdamW enlarges."""
    torch.testing.assert_close(checkpoint(folder / "out"), checkpoint(other / "out"), rtol=0, atol=atol)
    for ours, theirs in zip(log(folder), log(other), strict=True):
        assert ours == pytest.approx(theirs, rel=rel)


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_sharded_network_trains_to_the_same_weights(tmp_path: Path, group: None):
    """Here all parts are in one process."""
    found = alone(tmp_path / "sharded", shard=True)
    expected = alone(tmp_path / "whole")
    assert found == pytest.approx(expected, rel=1e-4)
    assert_same(tmp_path / "sharded", tmp_path / "whole")


def test_a_run_continues_sharded_and_whole(tmp_path: Path, group: None):
    """The layout of the weights differs, and fused optimizer steps take that of their own tensors for granted."""
    alone(tmp_path / "whole")
    for begun in (False, True):
        folder = tmp_path / str(begun)
        until_step_20(folder, shard=begun)
        alone(folder, shard=not begun)
        assert_same(folder, tmp_path / "whole")


def test_a_checkpoint_does_not_depend_on_the_layout_of_weights(tmp_path: Path):
    alone(tmp_path / "whole")
    until_step_20(tmp_path / "half")
    path = tmp_path / "half/out/checkpoint.1.pt"
    state = torch.load(path)
    net = state["trained"]["net"]
    net["module"] = {key: value.contiguous() for key, value in net["module"].items()}
    for one in net["optimizer"]["state"].values():
        one.update({key: value.contiguous() for key, value in one.items()})
    torch.save(state, path)
    alone(tmp_path / "half")
    assert_same(tmp_path / "half", tmp_path / "whole", atol=0, rel=0)


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("unet", {}, "`shard` needs several processes; start them with `torchrun --nproc-per-node 2 -m sdlab train "),
        ("unet", {"optimizer": "muon"}, "`shard` splits the matrices that Muon needs whole; use"),
        ("vae", {"adversarial.weight": 0.1}, "`shard` works for one network, and `adversarial` trains a second"),
        ("text", {}, "`shard` belongs to the vae and unet stages; remove it here"),
    ],
)
def test_sharding_that_cannot_be_is_one_line(tmp_path: Path, stage: str, changes: dict[str, object], message: str):
    path = write(tmp_path / "run.toml", stage, keys(tmp_path, **changes))
    path.write_text("shard = true\n" + path.read_text())
    with pytest.raises(UsageError) as error:
        run(stage, path, QUIET)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    until_step_20(folder / "begun", accumulate=2)
    torchrun("tests/support/sharded_processes.py", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_sharded_processes_are_one_with_the_larger_batch(runs: Path, tmp_path: Path, name: str):
    """In mixed precision the layout of the weights also changes the rounding of products."""
    changes = {**RUNS[name], "accumulate": 2 * int(str(RUNS[name].get("accumulate", 1)))}
    found = alone(tmp_path, **changes)
    mixed = "precision" in changes
    assert_same(runs / name, tmp_path, atol=5e-3 if mixed else 1e-5, rel=2e-2 if mixed else 1e-4)
    theirs = eval((runs / name / "found").read_text())
    assert theirs["value"] == pytest.approx(found["value"], abs=5e-3 if mixed else 1e-5)


@pytest.mark.slow
def test_the_first_process_writes_what_one_process_writes(runs: Path, tmp_path: Path):
    alone(tmp_path, accumulate=2)

    def files(folder: Path) -> list[str]:
        return sorted(str(path.relative_to(folder)) for path in (folder / "out").rglob("*"))

    assert files(runs / "plain") == files(tmp_path)
    ours, theirs = (torch.load(folder / "out/checkpoint.pt") for folder in (runs / "plain", tmp_path))
    assert ours.keys() == theirs.keys()
    assert repr(shapes(ours["trained"])) == repr(shapes(theirs["trained"]))


def shapes(state: object) -> object:
    """The same structure with shapes in place of tensors, and types in place of numbers."""
    if isinstance(state, Tensor):
        return tuple(state.shape), state.dtype, state.device
    if isinstance(state, dict):
        return {key: shapes(value) for key, value in state.items()}
    return [shapes(one) for one in state] if isinstance(state, list) else type(state)


@pytest.mark.slow
def test_one_process_continues_a_sharded_run(runs: Path, tmp_path: Path):
    """A signal to the second process stopped both after step 17."""
    assert all((runs / f"stopped.{rank}").exists() for rank in (0, 1))
    assert torch.load(runs / "signalled/out/checkpoint.pt")["step"] == 18
    config = toy(runs / "signalled")
    with pytest.raises(UsageError, match=r"to a run of 2 processes, and this one has 1; change `accumulate` so that"):
        train(Layers(config), config, QUIET)
    alone(runs / "signalled", accumulate=2)
    alone(tmp_path, accumulate=2)
    assert_same(runs / "signalled", tmp_path)


@pytest.mark.slow
def test_sharded_processes_continue_the_run_of_one(runs: Path, tmp_path: Path):
    alone(tmp_path, accumulate=2)
    assert_same(runs / "begun", tmp_path)


@pytest.mark.slow
def test_a_restart_of_sharded_processes_continues_to_the_same_weights(runs: Path):
    """The second process died at step 17, and torchrun started both again from step 10."""
    assert (runs / "crashed/out/log.csv").read_text() == (runs / "plain/out/log.csv").read_text()
    crashed, plain = checkpoint(runs / "crashed/out"), checkpoint(runs / "plain/out")
    assert all(value.equal(plain[part][key]) for part, one in crashed.items() for key, value in one.items())


@pytest.mark.slow
def test_a_sharded_run_that_diverges_is_diagnosed_once(runs: Path):
    first, second = ((runs / f"poisoned.{rank}").read_text().split("\n") for rank in (0, 1))
    assert first[0].startswith("training diverged at step 23: the loss of `net` is nan, the norm of its gradient nan")
    assert "is of step 20" in first[1]
    assert second == ["training diverged at step 23; see the error of the first process"]


class Denoising(Stage):
    """A tiny U-Net."""

    def __init__(self, config: Sharding) -> None:
        torch.manual_seed(0)
        self.net = Unet(TINY.unet)
        self.trained = {"net": standard(self.net, config)}

    @staticmethod
    def draw(generator: torch.Generator) -> Tensor:
        return torch.randn(2, 4, 8, 8, generator=generator)

    def losses(self, step: int, x: Tensor) -> Iterator[Loss]:
        yield Loss("net", (self.net(x, torch.tensor([10, 700]), torch.ones(2, 5, 16)) - x).square().mean())

    def finish(self) -> dict[str, float]:
        return {}


class CompiledSharding(Sharding):
    def build(self) -> Denoising:
        return Denoising(self)


@pytest.mark.slow
def test_a_compiled_network_can_be_sharded(tmp_path: Path, group: None):
    for name, changes in (("plain", {}), ("both", {"shard": True, "compile": True})):
        config = CompiledSharding(**keys(tmp_path / name, **changes))
        train(Denoising(config), config, QUIET)
    nets = (torch.load(tmp_path / name / "out/checkpoint.pt")["trained"]["net"]["module"] for name in ("plain", "both"))
    torch.testing.assert_close(*(dict(net) for net in nets), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_sharded_recipe_runs_in_two_processes(tmp_path: Path):
    """The text stage has no key `shard`, so its network is copied. The vae and unet stages share theirs."""
    stages = "".join(f"[{name}]\nsteps = 3\nbatch = 2\nlr = 1e-4\n" for name in ("text", "vae", "unet"))
    for name, more in (("two", "shard = true\n"), ("one", "accumulate = 2\n")):
        folder = tmp_path / name
        save_config(folder / "model", TINY)
        path = folder / "recipe.toml"
        path.write_text(f'model = "{folder}/model"\nout = "{folder}/out"\nprecision = "float32"\n{more}{stages}')
        if name == "one":
            list(run_all(path, QUIET))
        else:
            torchrun("-m", "sdlab", "train", str(path))
    for stage in ("text", "vae", "unet"):
        states = [
            next(iter(torch.load(tmp_path / name / "out" / stage / "checkpoint.pt")["trained"].values()))["module"]
            for name in ("two", "one")
        ]
        torch.testing.assert_close(*states, rtol=0, atol=2e-5)
        assert (tmp_path / "two/model" / f"{'clip' if stage == 'text' else stage}.safetensors").exists()
