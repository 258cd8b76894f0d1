"""The executor of several devices of this machine: one worker process for each."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from sdlab.sweep.executors.base import Job, Task
from sdlab.sweep.executors.pool import Pool
from sdlab.sweep.executors.worker import Message, serve
from sdlab.system.interrupts import ctrl_c_blocked

_WAIT = 0.5  # seconds


@dataclass(frozen=True)
class Devices:
    """One worker process for each of these devices. A name that is given twice has two."""

    names: tuple[str, ...]

    def check(self) -> None:
        """The names were checked with the sweep file."""

    def start(self, job: Job, device: str) -> Pool[_Process]:
        """The workers start when there are tasks for them."""
        return Pool(_Engine(job, self.names))


@dataclass(frozen=True, eq=False)
class _Process:
    process: BaseProcess
    pipe: Connection  # the worker has the only other end, so that it ends with the worker
    device: str


class _Engine:
    """Processes with a pipe each. No lock is shared, so a worker that is killed blocks nobody."""

    def __init__(self, job: Job, names: tuple[str, ...]) -> None:
        self.count, self._job, self._free = len(names), job, deque(names)

    def start(self) -> _Process:
        context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
        device = self._free.popleft()
        ours, theirs = context.Pipe()
        with ctrl_c_blocked():
            process = context.Process(target=_work, args=(theirs, self._job, device, self.count), daemon=True)
            process.start()
        theirs.close()
        return _Process(process, ours, device)

    def give(self, worker: _Process, task: Task) -> None:
        with suppress(OSError):  # a worker that has ended is seen in `messages`
            worker.pipe.send(task)

    def messages(self, workers: Collection[_Process]) -> Iterator[tuple[_Process, Message | None]]:
        by_pipe = {worker.pipe: worker for worker in workers}
        for pipe in wait(list(by_pipe), _WAIT):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                yield worker, worker.pipe.recv()
            except (EOFError, OSError):
                yield worker, None

    def stop(self, worker: _Process) -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        self._free.append(worker.device)

    def close(self) -> None:
        """Nothing is left."""


def _work(pipe: Connection, job: Job, device: str, workers: int) -> None:
    """Serve tasks until the runner has ended. Workers on the processor share its cores."""
    import torch

    if device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))

    def receive() -> Task | None:
        try:
            task: Task = pipe.recv()
        except (EOFError, OSError):
            return None
        return task

    with suppress(BrokenPipeError):
        serve(job, device, receive, pipe.send)
