"""The executor of submitit: each worker is a job of Slurm, or a process of this machine.

Tasks and messages are files in a folder of the run directory, which all machines of the cluster share. A task is
written by the runner, and a message by its worker, each under another name first, so that none is read before it is
whole.
"""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Annotated, Any, Literal

from pydantic import Field

from sdlab.sweep.executors.base import Job, Task
from sdlab.sweep.executors.pool import Pool
from sdlab.sweep.executors.worker import Message, serve
from sdlab.system.errors import UsageError
from sdlab.system.files import make_folder
from sdlab.system.interrupts import ctrl_c_blocked

_POLL = 0.25  # seconds between two looks at the folder
_SILENCE = 900  # seconds without a sign of the runner, after which a worker ends
_LAST = 10  # seconds in which a worker that is stopped should end
_ALIVE = "runner"  # the file that the runner touches
_STOP = "stop"
_SHARE = "share"


@dataclass(frozen=True)
class SubmititJobs:
    """Workers that are jobs of Slurm if there is one here, and otherwise processes of this machine.

    `workers` is the number of jobs. Each has one GPU in a sweep on GPUs. `hours` limits a job; one that reaches the
    limit is submitted again. Whatever else a cluster needs can be set by Slurm's variables, like SBATCH_QOS.
    """

    workers: Annotated[int, Field(ge=1, le=10_000)] = 1
    cluster: Literal["slurm", "local"] | None = None
    hours: Annotated[float, Field(gt=0, le=10_000)] = 24.0
    cpus: Annotated[int, Field(ge=1, le=1024)] = 4
    memory_gb: Annotated[float, Field(gt=0, le=1e6)] | None = None
    partition: str | None = None
    account: str | None = None

    def check(self) -> None:
        """Whether submitit is installed, and Slurm if it is asked for."""
        try:
            import submitit  # noqa: F401
        except ImportError:
            text = "--executor: submitit needs a package that is not installed; run: pip install 'sdlab[submitit]'"
            raise UsageError(text) from None
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise UsageError("--executor: there is no Slurm on this machine (no sbatch); leave out cluster=slurm")

    def start(self, job: Job, device: str) -> Pool[_Submitted]:
        """Jobs are submitted when there are tasks for them."""
        return Pool(_Engine(self, job, device))


@dataclass(eq=False)
class _Submitted:
    job: Any
    folder: Path
    given: int = 0  # tasks
    read: int = 0  # messages


class _Engine:
    """Jobs with a folder each."""

    def __init__(self, options: SubmititJobs, job: Job, device: str) -> None:
        import submitit

        self.count, self._job, self._device = options.workers, job, device
        self._stopped = list[_Submitted]()
        self._root = Path(job.directory) / "submitit"
        make_folder(self._root)
        self._executor = submitit.AutoExecutor(str(self._root / "log"), cluster=options.cluster)
        named = {"partition": options.partition, "account": options.account}
        slurm = {f"slurm_{key}": value for key, value in named.items() if value is not None}
        self._executor.update_parameters(
            name=Path(job.directory).name,
            timeout_min=max(1, round(60 * options.hours)),
            cpus_per_task=options.cpus,
            gpus_per_node=int(device == "cuda"),
            **({} if options.memory_gb is None else {"mem_gb": options.memory_gb}),
            **(slurm if self._executor.cluster == "slurm" else {}),
        )

    def start(self) -> _Submitted:
        folder = next(path for k in count() if not (path := self._root / f"worker-{k}").exists())
        make_folder(folder)
        (folder / _ALIVE).touch()
        with ctrl_c_blocked():
            return _Submitted(self._executor.submit(_work, self._job, self._device, folder), folder)

    def give(self, worker: _Submitted, task: Task) -> None:
        _write(worker.folder / f"task-{worker.given}", task)
        worker.given += 1

    def messages(self, workers: Collection[_Submitted]) -> Iterator[tuple[_Submitted, Message | None]]:
        time.sleep(_POLL)
        for worker in workers:
            (worker.folder / _ALIVE).touch()
            ended = worker.job.done()  # asked first, since the last message comes before the end
            path = worker.folder / f"message-{worker.read}"
            if path.exists():
                worker.read += 1
                yield worker, pickle.loads(path.read_bytes())
            elif ended:
                yield worker, None
            elif (share := worker.folder / _SHARE).exists():
                yield worker, pickle.loads(share.read_bytes())

    def stop(self, worker: _Submitted) -> None:
        with suppress(OSError):
            (worker.folder / _STOP).touch()
        if self._executor.cluster == "slurm" and not worker.job.done():
            worker.job.cancel()  # one that waits in the queue sees no file
        self._stopped.append(worker)

    def close(self) -> None:
        """Wait for workers of this machine, and remove all folders but the logs."""
        limit = time.monotonic() + _LAST
        while self._executor.cluster == "local" and time.monotonic() < limit:
            if all(worker.job.done() for worker in self._stopped):
                break
            time.sleep(_POLL)
        for path in self._root.glob("worker-*"):
            shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, value: object) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(pickle.dumps(value))
    draft.replace(path)


def _work(job: Job, device: str, folder: Path) -> None:
    """Serve the tasks in the folder, until the runner ends this worker or gives no sign for long."""
    Thread(target=_end_with_runner, args=(folder,), daemon=True).start()
    tasks, messages = count(), count()

    def receive() -> Task:
        path = folder / f"task-{next(tasks)}"
        while not path.exists():
            time.sleep(_POLL)
        task: Task = pickle.loads(path.read_bytes())
        return task

    def send(message: Message) -> None:
        if isinstance(message, float):
            _write(folder / _SHARE, message)
        else:
            _write(folder / f"message-{next(messages)}", message)

    serve(job, device, receive, send)


def _end_with_runner(folder: Path) -> None:
    """End this process, even in the middle of a task, when the runner has stopped it or is gone."""
    sign, heard = 0.0, time.monotonic()
    while folder.exists() and not (folder / _STOP).exists() and time.monotonic() - heard < _SILENCE:
        with suppress(OSError):
            if (latest := (folder / _ALIVE).stat().st_mtime) != sign:
                sign, heard = latest, time.monotonic()
        time.sleep(_POLL)
    os._exit(0)
