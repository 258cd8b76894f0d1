"""The interface between the runner of a sweep and its executor, which runs tasks in this process or in workers.

A cell is a pure function of its plan, so it can run in any process. Outcomes come back to the runner, which alone
writes the store.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sdlab.sweep.cell import Cell
from sdlab.sweep.plan import Plan
from sdlab.sweep.results import CellResult


@dataclass(frozen=True)
class Task:
    """Images of one cell."""

    key: str  # of the cell's row in the store
    cell: Cell
    images: range


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its result, or the reason why it has none."""

    result: CellResult | None
    seconds: float  # that it took
    prompts: tuple[str, ...] = ()  # of the thumbnails
    origin: dict[str, Any] = field(default_factory=dict)  # the provenance of the row
    reason: str = ""
    trace: str = ""  # the traceback, if code failed


@dataclass(frozen=True)
class Ready:
    """What all cells share, from a worker that has loaded the model."""

    real: dict[str, tuple[float, float]]  # `Bench.real`
    inputs: NDArray[np.uint8] | None  # `Bench.inputs`
    remarks: tuple[str, ...] = ()  # lines for the user


@dataclass(frozen=True)
class Job:
    """What a worker needs to open the plan in another process, perhaps on another machine."""

    plan: str  # JSON
    model: str  # the identity of the model on the machine of the runner (`identity.identify`)
    folder: str  # of the sweep file, where custom files are looked for
    working: str  # the working directory, where relative paths start
    directory: str  # the run directory, absolute

    @staticmethod
    def of(plan: Plan, model: str, folder: Path, directory: Path) -> Job:
        """The job of a plan, whose sweep file is in `folder`."""
        return Job(
            json.dumps(plan.model_dump(), ensure_ascii=False),
            model,
            str(folder),
            str(Path.cwd()),
            str(directory.absolute()),
        )


class Watch(Protocol):
    """The runner, as its executor sees it."""

    def opened(self, ready: Ready) -> None:
        """A model has been loaded."""
        ...

    def began(self, task: Task) -> None:
        """A task is handed out. After a worker was lost, its task is handed out again.

        Raises:
            RunError: the outcome could not be stored.
        """
        ...

    def progress(self, task: Task, share: float) -> None:
        """A share in [0, 1] of a task is done."""
        ...

    def finished(self, task: Task, outcome: Outcome) -> None:
        """A task has ended."""
        ...

    def check(self) -> None:
        """Raise KeyboardInterrupt if the sweep has been interrupted."""
        ...


class Running(Protocol):
    """An executor at work. Workers keep their model from one call of `run` to the next."""

    def run(self, tasks: Sequence[Task], watch: Watch) -> None:
        """Run all tasks, in any order.

        Raises:
            SdlabError: the model cannot be loaded, or there are no workers left.
        """
        ...

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        ...


class Executor(Protocol):
    """Runs the tasks of a plan somewhere. Its fields are the options of `--executor`."""

    def check(self) -> None:
        """Check that the executor can start, before anything else is done.

        Raises:
            UsageError: a package is missing.
        """
        ...

    def start(self, job: Job, device: str) -> Running:
        """Get ready to run tasks of this plan on workers with this kind of device, "cpu" or "cuda".

        Raises:
            UsageError: the cluster is not there.
        """
        ...
