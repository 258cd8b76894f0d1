"""Nothing is lost: killed runs, damaged and half-written checkpoints, and runs that diverge."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training import QUIET, Line, Toy, keys

from sdlab.system.errors import RunError
from sdlab.train.loop import train
from sdlab.train.stage import Loss


def toy(folder: Path, **changes: object) -> Toy:
    return Toy(**keys(folder, **{"steps": 40, "save_every": 10, **changes}))


def steps(out: Path) -> dict[str, int]:
    return {path.name: torch.load(path)["step"] for path in sorted(out.glob("checkpoint*.pt"))}


def final(out: Path) -> dict[str, object]:
    saved = torch.load(out / "checkpoint.pt")
    return {"trained": repr(saved["trained"]), "log": (out / "log.csv").read_text()}


KILLED = """
import os, signal, sys
from pathlib import Path
from training import QUIET, Line, Toy, keys
from sdlab.train.loop import train

class Killed(Line):
    def losses(self, step, x):
        if step == 27:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().losses(step, x)

config = Toy(**keys(Path(sys.argv[1]), steps=40, save_every=10, snapshot_every=15))
train(Killed(config), config, QUIET)
"""


def test_a_killed_run_continues_with_the_same_losses_and_weights(tmp_path: Path):
    path = [str(Path("tests/support").resolve()), str(Path.cwd())]
    code = f"import sys; sys.path[:0] = {path!r}\n{KILLED}"
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    here, there = toy(tmp_path, snapshot_every=15), toy(tmp_path / "whole", snapshot_every=15)
    assert steps(here.out) == {"checkpoint.pt": 20, "checkpoint.1.pt": 10}
    for config in (here, there):
        train(Line(config), config, QUIET)
    assert final(here.out) == final(there.out)
    averages = [{p.name: p.read_bytes() for p in (config.out / "averages").iterdir()} for config in (here, there)]
    assert averages[0] == averages[1]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_checkpoints_are_kept(tmp_path: Path, keep: int):
    config = toy(tmp_path, keep=keep)
    train(Line(config), config, QUIET)
    names = ["checkpoint.pt", "checkpoint.1.pt", "checkpoint.2.pt"]
    assert steps(config.out) == dict(zip(names[:keep], (40, 30, 20), strict=False))


def test_a_prolonged_run_keeps_as_many_as_it_now_says(tmp_path: Path):
    config, longer = toy(tmp_path, keep=3), toy(tmp_path, keep=2, steps=50)
    train(Line(config), config, QUIET)
    train(Line(longer), longer, QUIET)
    assert steps(config.out) == {"checkpoint.pt": 50, "checkpoint.1.pt": 40}


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"", lambda data: data[: len(data) // 2]])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage, capsys: pytest.CaptureFixture[str]):
    here, there = toy(tmp_path), toy(tmp_path / "whole")
    train(Line(there), there, QUIET)
    with pytest.raises(KeyboardInterrupt):
        train(Line(here, interrupt_at=34), here, QUIET)
    assert steps(here.out) == {"checkpoint.pt": 35, "checkpoint.1.pt": 30}
    newest = here.out / "checkpoint.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    train(resumed := Line(here), here, QUIET)
    assert len(resumed.seen) == 10
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {newest}: cannot be read (")
    assert warning.endswith("); continuing from checkpoint.1.pt")
    assert final(here.out) == final(there.out)
    assert steps(here.out) == {"checkpoint.pt": 40, "checkpoint.1.pt": 30}


def test_a_kill_between_two_names_loses_nothing(tmp_path: Path):
    """The older checkpoint has been renamed, and the new one does not have its name yet."""
    here, there = toy(tmp_path), toy(tmp_path / "whole")
    train(Line(there), there, QUIET)
    with pytest.raises(KeyboardInterrupt):
        train(Line(here, interrupt_at=14), here, QUIET)
    (here.out / "checkpoint.pt").replace(here.out / "checkpoint.1.pt")
    resumed = Line(here)
    train(resumed, here, QUIET)
    assert len(resumed.seen) == 25
    assert final(here.out) == final(there.out)


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path):
    config = toy(tmp_path)
    train(Line(config), config, QUIET)
    for path in config.out.glob("checkpoint*.pt"):
        path.write_bytes(b"x")
    with pytest.raises(RunError, match=r"checkpoint\.pt: cannot be read \(.*\); delete it to start again"):
        train(Line(config), config, QUIET)
    assert len(list(config.out.glob("checkpoint*.pt"))) == 2


def test_a_full_disk_leaves_the_checkpoints_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = toy(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(Line(config, interrupt_at=24), config, QUIET)
    before = steps(config.out)

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:626] . unexpected pos 64 vs 0\nmore")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match=r"cannot write .*checkpoint\.pt: .*unexpected pos 64 vs 0$"):
        train(Line(config), config, QUIET)
    monkeypatch.undo()
    assert steps(config.out) == before == {"checkpoint.pt": 25, "checkpoint.1.pt": 20}
    assert not list(config.out.glob("*.tmp"))


class Scaled(Line):
    """The loss of a line, times a factor from one step on."""

    def __init__(self, config: Toy, factor: float, since: int) -> None:
        super().__init__(config)
        self.factor, self.since = factor, since

    def losses(self, step: int, x: Tensor) -> Iterator[Loss]:
        for loss in super().losses(step, x):
            yield Loss(loss.name, loss.value * (self.factor if step >= self.since else 1))


def test_a_loss_that_is_not_a_number_is_diagnosed(tmp_path: Path):
    config = toy(tmp_path, warmup=0, schedule="constant")
    with pytest.raises(RunError) as error:
        train(Line(config, poison_at=23), config, QUIET)
    assert error.value.lines == [
        "training diverged at step 23: the loss of `line` is nan, the norm of its gradient nan (largest in `weight`), "
        "the learning rate 0.01",
        f"the last checkpoint, {config.out / 'checkpoint.pt'}, is of step 20; try a smaller `lr` or `clip`, or a "
        "longer `warmup`, in another `out`",
    ]
    assert steps(config.out) == {"checkpoint.pt": 20, "checkpoint.1.pt": 10}


def test_a_run_that_diverges_before_its_first_checkpoint_says_so(tmp_path: Path):
    with pytest.raises(RunError, match=r"diverged at step 3: .*\nno checkpoint yet; try a smaller `lr`"):
        train(Line(toy(tmp_path), poison_at=3), toy(tmp_path), QUIET)


def test_an_exploding_loss_stops_the_run(tmp_path: Path):
    """It is 10⁶ times as large from step 143 on: the tenth of these steps is the last."""
    config = toy(tmp_path, steps=300, lr=1e-4)
    with pytest.raises(RunError, match=r"diverged at step 152: the loss of `line` is \d\.\d+e\+06, the norm"):
        train(Scaled(config, 1e6, 143), config, QUIET)
    assert steps(config.out) == {"checkpoint.pt": 150, "checkpoint.1.pt": 140}


@pytest.mark.parametrize(("factor", "since"), [(100.0, 143), (1e6, 0)])
def test_a_large_loss_alone_does_not_stop_it(tmp_path: Path, factor: float, since: int):
    config = toy(tmp_path, steps=300, lr=1e-4)
    train(Scaled(config, factor, since), config, QUIET)


def test_a_penalty_at_some_steps_does_not_stop_it(tmp_path: Path):
    class Penalty(Scaled):
        def losses(self, step: int, x: Tensor) -> Iterator[Loss]:
            self.since = step if step % 4 == 1 else step + 1
            yield from super().losses(step, x)

    config = toy(tmp_path, steps=200, lr=1e-4)
    train(Penalty(config, 1e6, 0), config, QUIET)


def test_the_early_values_survive_a_resumed_run(tmp_path: Path):
    config = toy(tmp_path, steps=300, lr=1e-4)
    first = Scaled(config, 1e6, 205)
    first.interrupt_at = 195
    with pytest.raises(KeyboardInterrupt):
        train(first, config, QUIET)
    with pytest.raises(RunError, match="diverged at step 214"):
        train(Scaled(config, 1e6, 205), config, QUIET)
