"""Stages for runs in one and in two processes, and the script that torchrun starts: `two_processes.py FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from training import QUIET, Toy, keys

from sdlab.train import processes
from sdlab.train.average import exponential
from sdlab.train.loop import train
from sdlab.train.optimizer import standard
from sdlab.train.randomness import batch_generator
from sdlab.train.stage import Loss, Stage, Trained

STEPS = 30


def toy(folder: Path, **changes: object) -> Toy:
    return Toy(**keys(folder, **{"steps": STEPS, "save_every": 10, "snapshot_every": 15, "clip": 0.5, **changes}))


class Regression(Stage):
    """Gradient descent on random batches of 8; with `joined` > 1, the batches of that many processes at once."""

    def __init__(self, config: Toy, joined: int = 1) -> None:
        torch.manual_seed(0)
        self.layer, self.joined, self.ended = nn.Linear(3, 2), joined, False
        self.unused = nn.Linear(2, 2)
        module = nn.ModuleDict({"layer": self.layer, "unused": self.unused})
        optimizer = lambda module: torch.optim.SGD(module.parameters(), lr=0.1)  # noqa: E731
        self.trained = {"layer": Trained(module, optimizer, {"ema": exponential(0.9)})}

    @staticmethod
    def draw(generator: torch.Generator) -> Tensor:
        return torch.randn(8, 3, generator=generator)

    def losses(self, step: int, x: Tensor) -> Iterator[Loss]:
        x = torch.cat([x, *(self.draw(batch_generator(0, step, i)) for i in range(1, self.joined))])
        loss = (self.layer(x) - x[:, :2].cos()).square().mean()
        yield Loss("layer", loss, {"spread": x.square().mean()})

    def finish(self) -> dict[str, float]:
        self.ended = True
        return {"bias": float(self.layer.bias[0])}


class Adversarial(Stage):
    """A GAN on numbers with AdamW, whose generator is a convolution."""

    def __init__(self, config: Toy) -> None:
        torch.manual_seed(0)
        self.generator = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1))
        self.critic = nn.utils.parametrizations.spectral_norm(nn.Linear(16, 1))
        self.trained = {"generator": standard(self.generator, config), "critic": standard(self.critic, config)}

    @staticmethod
    def draw(generator: torch.Generator) -> Tensor:
        return torch.randn(2, 16, 1, 4, 4, generator=generator)

    def losses(self, step: int, batch: Tensor) -> Iterator[Loss]:
        noise, real = batch
        fake = self.generator(noise)
        yield Loss("generator", nn.functional.softplus(-self.critic(fake.flatten(1))).mean())
        scores = self.critic(2 + real.flatten(1)), self.critic(fake.detach().flatten(1))
        yield Loss("critic", (nn.functional.softplus(-scores[0]) + nn.functional.softplus(scores[1])).mean())

    def finish(self) -> dict[str, float]:
        return {}


class Signalled(Regression):
    """The second process alone is interrupted at step 17."""

    def losses(self, step: int, x: Tensor) -> Iterator[Loss]:
        if step == 17 and processes.rank() == 1:
            signal.raise_signal(signal.SIGTERM)
        yield from super().losses(step, x)


class Crashing(Regression):
    """The second process dies at step 17 of the first attempt."""

    def losses(self, step: int, x: Tensor) -> Iterator[Loss]:
        if step == 17 and processes.rank() == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os._exit(1)
        yield from super().losses(step, x)


def main(folder: Path) -> None:
    with processes.joined():
        for name, kind, accumulate in (("plain", Regression, 1), ("more", Regression, 2), ("gan", Adversarial, 1)):
            config = toy(folder / name, accumulate=accumulate)
            found = train(kind(config), config, QUIET)
            assert bool(found) == (processes.rank() == 0)
        config = toy(folder / "signalled")
        if not config.out.exists():
            try:
                train(Signalled(config), config, QUIET)
                raise AssertionError("not interrupted")
            except KeyboardInterrupt:
                (folder / f"stopped.{processes.rank()}").touch()
        train(Crashing(config := toy(folder / "crashed")), config, QUIET)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
