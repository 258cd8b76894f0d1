"""The executor of one device: this process runs one cell after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sdlab.sweep.executors.base import Task, Watch
from sdlab.sweep.executors.worker import measure
from sdlab.sweep.plan import Plan
from sdlab.sweep.provenance import provenance
from sdlab.sweep.results import Bench


@dataclass
class Local:
    """A bench in this process. `model` identifies the model down to its weights."""

    plan: Plan
    model: str
    bench: Bench
    _origin: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._origin = provenance(self.plan, self.model)

    def run(self, tasks: Sequence[Task], watch: Watch) -> None:
        """Run the tasks in order."""
        for task in tasks:
            watch.began(task)
            watch.finished(task, measure(self.plan, self.bench, self._origin, task, partial(watch.progress, task)))

    def close(self) -> None:
        """Nothing is left running."""
