"""The batches of a training run, drawn in the training process or ahead of time by worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from sdlab.system.errors import SdlabError
from sdlab.train import processes
from sdlab.train.config import Training
from sdlab.train.randomness import batch_generator
from sdlab.train.workers import computed_ahead

Draw = Callable[[torch.Generator], Any]  # of a stage: the data of one batch


def batches(draw: Draw, config: Training, done: int) -> Iterator[list[Any]]:
    """The `accumulate` batches of each step from step `done` on. Workers change when a batch is drawn, not what it is.

    Raises:
        UsageError, RunError: a picture cannot be read.
        RunError: a worker was ended from outside, for example because memory ran out.
    """
    drawn: list[Any] = []
    for batch in _one_by_one(_Batches(draw, config), config, done):
        if isinstance(batch, SdlabError):
            raise batch
        drawn.append(batch)
        if len(drawn) == config.accumulate:
            yield drawn
            drawn = []


def _one_by_one(every: _Batches, config: Training, done: int) -> Iterator[Any]:
    order = range(done * config.accumulate, config.steps * config.accumulate)
    if config.workers == 0:
        yield from map(every, order)
        return
    yield from computed_ahead(every, order, config.workers)


class _Batches:
    """The batches of this process by their index over all steps."""

    def __init__(self, draw: Draw, config: Training) -> None:
        self.draw, self.seed, self.accumulate = draw, config.seed, config.accumulate
        self.first = processes.rank() * config.accumulate  # in each step

    def __call__(self, index: int) -> Any:
        step, batch = divmod(index, self.accumulate)
        try:
            return self.draw(batch_generator(self.seed, step, self.first + batch))
        except SdlabError as error:  # as a value, because a worker has no other way to report it
            return error
