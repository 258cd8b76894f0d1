"""The batches of a training run, drawn in the training process or ahead of time by worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from sdlab.system.errors import RunError, SdlabError
from sdlab.system.interrupts import ctrl_c_blocked
from sdlab.train import processes
from sdlab.train.config import Training
from sdlab.train.randomness import batch_generator

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
        yield from (every[i] for i in order)
        return
    loader: DataLoader[Any] = DataLoader(
        every,
        batch_size=None,  # a batch is drawn whole
        sampler=order,
        generator=torch.Generator(),
        num_workers=config.workers,
        prefetch_factor=4,
        # A forked process can neither use CUDA nor rely on locks that other threads held.
        multiprocessing_context="spawn",
    )
    with ctrl_c_blocked():
        drawn = iter(loader)
    try:
        yield from drawn
    except (RuntimeError, EOFError, ConnectionError) as error:  # the last two while a batch is handed over
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise RunError("a process that draws batches was ended from outside; the same command continues") from None


class _Batches(Dataset[Any]):
    """The batches of this process by their index over all steps."""

    def __init__(self, draw: Draw, config: Training) -> None:
        self.draw, self.seed, self.accumulate = draw, config.seed, config.accumulate
        self.first = processes.rank() * config.accumulate  # in each step

    def __getitem__(self, index: int) -> Any:
        step, batch = divmod(index, self.accumulate)
        try:
            return self.draw(batch_generator(self.seed, step, self.first + batch))
        except SdlabError as error:  # as a value, because the loader would change its message
            return error
