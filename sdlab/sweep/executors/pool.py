"""The pool: hands tasks to workers in turn, and those of a lost worker to another one."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from sdlab.sweep.executors.base import Outcome, Ready, Task, Watch
from sdlab.sweep.executors.worker import Message
from sdlab.system.errors import RunError, SdlabError
from sdlab.system.output import remark

_ATTEMPTS = 3  # of a task, and of starting a worker

W = TypeVar("W")


class Engine(Protocol[W]):
    """Starts workers, and carries tasks to them and messages back. A worker is known by a value of type W."""

    count: int  # workers, at most

    def start(self) -> W:
        """Start a worker. It becomes ready later."""
        ...

    def give(self, worker: W, task: Task) -> None:
        """Send a task to a ready worker without one."""
        ...

    def messages(self, workers: Collection[W]) -> Iterable[tuple[W, Message | None]]:
        """What has arrived, after waiting for a moment if there is nothing. None says that a worker is lost."""
        ...

    def stop(self, worker: W) -> None:
        """End a worker, lost or not."""
        ...

    def close(self) -> None:
        """Leave nothing behind when all workers have ended."""
        ...


class Pool(Generic[W]):
    """Workers that keep their model, each with at most one task."""

    def __init__(self, engine: Engine[W]) -> None:
        self._engine = engine
        self._busy: dict[W, Task | None] = {}  # all workers; None for one without a task
        self._ready: set[W] = set()
        self._failed_starts = 0

    def run(self, tasks: Sequence[Task], watch: Watch) -> None:
        """Run all tasks. A task whose worker is lost `_ATTEMPTS` times fails.

        Raises:
            SdlabError: a worker cannot load the model.
            RunError: workers end again and again while they start.
        """
        queue, lost = deque(tasks), Counter[str]()
        while queue or any(self._busy.values()):
            missing = min(self._engine.count, len(queue) + sum(map(bool, self._busy.values()))) - len(self._busy)
            for _ in range(missing):
                self._busy[self._engine.start()] = None
            for worker in [worker for worker in self._busy if worker in self._ready and self._busy[worker] is None]:
                if queue:
                    task = queue.popleft()
                    watch.began(task)
                    self._busy[worker] = task
                    self._engine.give(worker, task)
            for worker, message in self._engine.messages(list(self._busy)):
                match message:
                    case Ready():
                        self._ready.add(worker)
                        self._failed_starts = 0
                        watch.opened(message)
                    case None:
                        self._lose(worker, queue, lost, watch)
                    case SdlabError():
                        raise message
                    case Outcome():
                        if (done := self._busy[worker]) is not None:
                            self._busy[worker] = None
                            watch.finished(done, message)
                    case share:
                        if (current := self._busy[worker]) is not None:
                            watch.progress(current, share)
            watch.check()

    def _lose(self, worker: W, queue: deque[Task], lost: Counter[str], watch: Watch) -> None:
        """Forget a worker, and put its task first in the queue."""
        task = self._busy.pop(worker)
        self._engine.stop(worker)
        if worker not in self._ready:
            self._failed_starts += 1
            if self._failed_starts >= _ATTEMPTS:
                raise RunError(
                    f"workers ended {_ATTEMPTS} times while they started; look for their traceback above or in their "
                    "log, and whether there is enough memory"
                )
        self._ready.discard(worker)
        if task is None:
            return
        lost[task.key] += 1
        if lost[task.key] < _ATTEMPTS:
            remark(f"note: the worker of {task.cell.label} has ended; the cell is run again")
            queue.appendleft(task)
        else:
            watch.finished(
                task, Outcome(None, 0.0, reason=f"its worker ended {_ATTEMPTS} times; is there enough memory?")
            )

    def close(self) -> None:
        """End all workers."""
        for worker in self._busy:
            self._engine.stop(worker)
        self._busy.clear()
        self._engine.close()
