"""The worker: a bench in a process of its own, and the measurement of one task."""

from __future__ import annotations

import io
import json
import math
import os
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from sdlab import plugins
from sdlab.sweep.axes import GRID, GUIDANCE, SAMPLER
from sdlab.sweep.executors.base import Job, Outcome, Ready, Task
from sdlab.sweep.plan import Plan
from sdlab.sweep.provenance import AT_ONCE, OTHER_WORK, provenance
from sdlab.sweep.results import Bench, CellFailed, CellResult
from sdlab.system.errors import RunError, SdlabError, UsageError
from sdlab.system.other_work import OtherWork

_EVERY = 0.2  # seconds between two reports of progress

Message = Ready | float | Outcome | SdlabError
"""From a worker: it is ready, the share of its task that is done, the outcome, or the error that ends the sweep."""


def measure(
    plan: Plan, bench: Bench, origin: dict[str, Any], task: Task, on_progress: Callable[[float], None]
) -> Outcome:
    """Measure a task. `origin` is the provenance of this process."""
    start, others = time.monotonic(), OtherWork()
    try:
        result = bench.run(task.cell, on_progress, task.images)
        _check_finite(plan, result)
    except CellFailed as failure:
        return Outcome(None, time.monotonic() - start, (), origin, str(failure), failure.trace)
    marked = {**origin, OTHER_WORK: others.share()}
    return Outcome(result, time.monotonic() - start, tuple(bench.prompts), marked)


def _check_finite(plan: Plan, result: CellResult) -> None:
    found = ((info.label, result.metrics[info.name]) for info in plan.measures)
    wrong = [f"{label} is {value}" for label, value in found if not math.isfinite(value)]
    if wrong:
        raise CellFailed(", ".join(wrong))


class Worker:
    """A loaded model that measures one task after the other."""

    def __init__(self, job: Job, device: str) -> None:
        """Open the plan of a job and load its model on `device`.

        Raises:
            UsageError: the files of this machine differ from those of the runner.
            SdlabError: the model cannot be loaded.
        """
        from sdlab.sweep.bench import ModelBench
        from sdlab.sweep.identity import identify

        with redirect_stderr(io.StringIO()) as said:  # of many workers, one speaks
            self.plan = _opened(job, device)
            self.model = identify(self.plan)
            if self.model != job.model:
                raise UsageError(
                    f"a worker on {os.uname().nodename} has other files of the model, the metrics or the pictures "
                    f"({self.model}) than this machine ({job.model}); copy them there"
                )
            self._bench = ModelBench(self.plan)
        self._origin = {**provenance(self.plan, self.model), AT_ONCE: True}
        self.ready = Ready(self._bench.real(), self._bench.inputs, tuple(said.getvalue().splitlines()))

    def run(self, task: Task, on_progress: Callable[[float], None]) -> Outcome:
        """The outcome of a task. A bug fails the task, with its traceback."""
        try:
            if self.plan.key(task.cell, self.model) != task.key:
                raise RunError(f"the code of {task.cell.label} differs on {os.uname().nodename}; copy it there")
            return measure(self.plan, self._bench, self._origin, task, on_progress)
        except Exception as error:
            trace = "" if isinstance(error, SdlabError) else traceback.format_exc()
            return Outcome(None, 0.0, (), self._origin, plugins.explain(error), trace)


def _opened(job: Job, device: str) -> Plan:
    """The plan on this device, with its custom samplers, grids and strategies known."""
    if str(Path.cwd()) != job.working:
        try:
            os.chdir(job.working)
        except OSError:
            text = f"a worker on {os.uname().nodename} has no folder {job.working}; use one that all machines share"
            raise UsageError(text) from None
    plugins.discover()
    plan = Plan.model_validate({**json.loads(job.plan), "device": device, "devices": ()})
    with plugins.beside(Path(job.folder)):
        for cell in plan.cells:
            for axis, choice in ((SAMPLER, cell.sampler), (GUIDANCE, cell.guidance), (GRID, cell.grid)):
                if plugins.is_path(choice.name) or choice.options:
                    axis.mistakes(choice.name, choice.options, build=axis is not GRID)  # adds what it names
    return plan


def serve(job: Job, device: str, receive: Callable[[], Task | None], send: Callable[[Message], None]) -> None:
    """Open a worker and measure the tasks that are received, until None is."""
    try:
        worker = Worker(job, device)
    except SdlabError as error:
        send(error)
        return
    send(worker.ready)
    last = time.monotonic()

    def report(share: float) -> None:
        nonlocal last
        if time.monotonic() - last > _EVERY:
            last = time.monotonic()
            send(share)

    while (task := receive()) is not None:
        send(worker.run(task, report))
