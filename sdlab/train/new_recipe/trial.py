"""The time of a training step on this machine, measured over a few steps of each stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from torch import Tensor

from sdlab.model.config import ModelConfig
from sdlab.system.device import enough_memory
from sdlab.system.interrupts import temporary_folder
from sdlab.train.captioned_config import SizedTraining
from sdlab.train.config import Training
from sdlab.train.loop import train
from sdlab.train.recipe import Part
from sdlab.train.stage import Loss, Stage
from sdlab.train.stages.unet_config import UnetTraining
from sdlab.weights.model_folder import save_config, save_part

STEPS = 3  # that are timed, after a first one that is not


class _Enough(Exception):
    """The last step that is timed has ended."""


class _Timed(Stage):
    """A stage whose first steps are timed, and then end the run."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.trained, self.draw = stage, stage.trained, stage.draw
        self.starts: list[float] = []

    def losses(self, step: int, batch: Any) -> Iterator[Loss]:
        """The losses of the stage."""
        self.starts.append(time.perf_counter())
        if step > STEPS:
            raise _Enough
        return self.stage.losses(step, batch)

    def preview(self) -> Tensor | None:
        """None, because the time of a preview is not measured."""
        return None

    def finish(self) -> dict[str, float]:
        """Nothing is measured."""
        return {}

    def seconds(self) -> float:
        """The median time of a step."""
        return median(after - before for before, after in zip(self.starts[1:], self.starts[2:], strict=False))


def seconds_per_step(parts: Sequence[Part], model: ModelConfig) -> dict[str, float]:
    """The seconds of a step of each stage. It works in a temporary folder with untrained networks.

    Raises:
        UsageError: a stage cannot be trained on the data.
        RunError: a file cannot be written, or memory runs out.
    """
    with temporary_folder() as folder:
        save_config(folder / "model", model)
        return {part.name: _seconds(part.config, folder / "model", folder / part.name) for part in parts}


def _seconds(config: Training, model: Path, out: Path) -> float:
    changes: dict[str, object] = {"model": str(model), "out": out, "steps": STEPS + 2}
    if isinstance(config, SizedTraining):
        changes["preview_every"] = None
    if isinstance(config, UnetTraining) and config.cache is not None:
        changes["cache"] = min(config.cache, 4 * config.batch)
    config = config.model_copy(update=changes)
    with enough_memory("the networks are too large for this machine"):
        timed = _Timed(config.build())
        with suppress(_Enough):
            train(timed, config, Console(quiet=True))
    first = next(iter(timed.trained.values()))
    save_part(model / config.writes(), first.stored or first.module)  # later stages need it
    return timed.seconds()
