"""A stage for sharded runs, and the script that torchrun starts: `sharded_processes.py FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from training import QUIET, Toy, keys

from sdlab.system.errors import RunError
from sdlab.train import processes
from sdlab.train.loop import train
from sdlab.train.optimizer import standard
from sdlab.train.sharding import Sharded
from sdlab.train.stage import Loss, Stage

STEPS = 30


class Sharding(Toy):
    """A toy whose stage may be sharded."""

    shard: bool = False

    def sharded(self) -> bool:
        return self.shard

    def build(self) -> Layers:
        return Layers(self)


def toy(folder: Path, **changes: object) -> Sharding:
    given = {"steps": STEPS, "save_every": 10, "snapshot_every": 10, "preview_every": 10, "clip": 0.2, "lr": 3e-3}
    return Sharding(**keys(folder, **{**given, **changes}))


class Layers(Stage):
    """Convolutions in a list, and weights outside it; sizes that two processes cannot share evenly are among them."""

    def __init__(self, config: Sharding, poison_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.net = nn.Module()
        self.net.first = nn.Conv2d(1, 6, 3, padding=1)
        self.net.layers = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(2))
        self.net.last = nn.Linear(6, 1)
        self.net.unused = nn.Linear(2, 2)
        self.net.register_buffer("count", torch.tensor(3))
        self.net.last.bias.requires_grad_(False)
        self.trained = {"net": standard(self.net, config)}
        self.poison_at = poison_at

    @staticmethod
    def draw(generator: torch.Generator) -> Tensor:
        return torch.randn(4, 1, 6, 6, generator=generator)

    def _values(self, x: Tensor) -> Tensor:
        h = self.net.first(x.contiguous(memory_format=torch.channels_last))
        for layer in self.net.layers:
            h = h + layer(h.relu())
        return self.net.last(h.mean((2, 3)))[:, 0]

    def losses(self, step: int, x: Tensor) -> Iterator[Loss]:
        loss = (self._values(x).float() - x.square().mean((1, 2, 3)).cos()).square().mean()
        yield Loss("net", loss * float("nan") if step == self.poison_at else loss, {"spread": x.square().mean()})

    def preview(self) -> Tensor:
        value = self._values(torch.ones(1, 1, 6, 6)).float().tanh()
        return value.expand(1, 1, 3, 4, 4)

    def finish(self) -> dict[str, float]:
        return {"value": float(self._values(torch.ones(1, 1, 6, 6))), "norm": float(self.net.first.weight.norm())}


class Signalled(Layers):
    """The second process alone is interrupted at step 17."""

    def losses(self, step: int, x: Tensor) -> Iterator[Loss]:
        if step == 17 and processes.rank() == 1:
            signal.raise_signal(signal.SIGTERM)
        yield from super().losses(step, x)


class Crashing(Layers):
    """The second process dies at step 17 of the first attempt."""

    def losses(self, step: int, x: Tensor) -> Iterator[Loss]:
        if step == 17 and processes.rank() == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os._exit(1)
        yield from super().losses(step, x)


RUNS: dict[str, dict[str, object]] = {
    "plain": {},
    "more": {"accumulate": 2},
    "length": {"ema_length": 0.08},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
}


def main(folder: Path) -> None:
    with processes.joined():
        for name, changes in RUNS.items():
            config = toy(folder / name, shard=True, **changes)
            if found := train(Layers(config), config, QUIET):
                (folder / name / "found").write_text(repr(found))
            assert bool(found) == (processes.rank() == 0)
        net = Layers(config).net
        Sharded(net, "cpu")
        here, every = (sum(p.to_local().numel() for p in net.parameters()), sum(p.numel() for p in net.parameters()))
        assert here < 0.55 * every
        config = toy(folder / "begun", shard=True)  # by one process
        train(Layers(config), config, QUIET)
        config = toy(folder / "poisoned", shard=True)
        try:
            train(Layers(config, poison_at=23), config, QUIET)
        except RunError as error:
            (folder / f"poisoned.{processes.rank()}").write_text(str(error))
        config = toy(folder / "signalled", shard=True)
        if not (folder / "stopped.1").exists():
            try:
                train(Signalled(config), config, QUIET)
                raise AssertionError("not interrupted")
            except KeyboardInterrupt:
                (folder / f"stopped.{processes.rank()}").touch()
        train(Crashing(config := toy(folder / "crashed", shard=True)), config, QUIET)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
