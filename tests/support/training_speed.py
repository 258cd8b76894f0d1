"""Training steps that are timed, in as many processes as torchrun starts: `training_speed.py FOLDER SHARD STEPS`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from sharded_processes import Sharding
from torch import Tensor
from training import QUIET, TINY, keys

from sdlab.model.diffusion import Unet
from sdlab.train import processes
from sdlab.train.loop import train
from sdlab.train.optimizer import standard
from sdlab.train.stage import Loss, Stage

BATCH, SIZE = 8, 16  # latents per process, and their height and width


class Speed(Stage):
    """A U-Net of 2.6 M parameters, whose steps are timed. The first two are not counted."""

    def __init__(self, config: Sharding) -> None:
        torch.manual_seed(0)
        self.unet = Unet(replace(TINY.unet, width=64, multipliers=(1, 2), attention_rates=(2,), groups=8))
        self.trained = {"unet": standard(self.unet, config)}
        self.starts: list[float] = []

    @staticmethod
    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.randn(2, BATCH, 4, SIZE, SIZE, generator=generator), torch.randn(BATCH, 24, 16)

    def losses(self, step: int, batch: tuple[Tensor, Tensor]) -> Iterator[Loss]:
        (x, target), context = batch
        self.starts.append(time.perf_counter())
        yield Loss("unet", (self.unet(x, torch.full((BATCH,), 500), context) - target).square().mean())

    def finish(self) -> dict[str, float]:
        return {}

    def seconds(self) -> float:
        """The median time of a step."""
        return median(after - before for before, after in zip(self.starts[2:], self.starts[3:], strict=False))


def main(folder: Path, shard: str, steps: int) -> None:
    class Config(Sharding):
        def build(self) -> Speed:
            return Speed(self)

    with processes.joined():
        config = Config(**keys(folder, steps=steps, save_every=10**6, shard=bool(int(shard))))
        stage = Speed(config)
        train(stage, config, QUIET)
        if processes.rank() == 0:
            (folder / "seconds").write_text(str(stage.seconds()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
