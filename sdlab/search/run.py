"""The runner of a search. A trial is a cell of a sweep, run by the same bench and kept in the same store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sdlab.search.document import SearchPlan
from sdlab.search.study import Proposed, Study
from sdlab.sweep.cell import Cell, digest
from sdlab.sweep.executors.base import Task
from sdlab.sweep.executors.local import Local
from sdlab.sweep.plan import cell_of
from sdlab.sweep.progress import SweepProgress
from sdlab.sweep.results import Bench
from sdlab.sweep.run import STORE, Recorder, Tally, check_room, opened, plan_text, write_plan
from sdlab.sweep.store import Row, Store
from sdlab.system.errors import UsageError
from sdlab.system.interrupts import STATUS as INTERRUPTED
from sdlab.system.interrupts import Interrupts
from sdlab.system.lock import locked

STUDY = "study.sqlite"
_REPEATS = 100  # proposals in a row that repeat a cell, after which the space counts as exhausted


@dataclass(frozen=True)
class SearchOutcome:
    """The outcome of the trials."""

    trials: int  # to measure
    kept: int  # measured before
    rows: tuple[Row, ...]  # of all trials with values
    failed: tuple[tuple[str, str], ...] = ()  # (cell, reason), of this run
    exhausted: bool = False  # whether there were no further cells
    interrupted: bool = False
    logged: bool = False

    @property
    def status(self) -> int:
        """The exit status: 130 after an interrupt, 1 if a cell failed, otherwise 0."""
        return INTERRUPTED if self.interrupted else 1 if self.failed else 0


def run_search(
    search: SearchPlan, model: str, open_bench: Callable[[], Bench], directory: Path, console: Console
) -> SearchOutcome:
    """Measure cells that are proposed one after the other, each following from the values of those before.

    `model` identifies the model down to its weights. Cells that the store has are not run again. `open_bench` is called
    only if a cell has to run.

    Raises:
        RunError: the directory is in use, a file is damaged, or the disk is full; finished trials are kept.
        SdlabError: from `open_bench`.
    """
    plan, quality = search.first, search.quality
    with (
        Interrupts().listening() as interrupts,
        locked(directory),
        Store(directory / STORE) as store,
        Study(directory / STUDY, search.study(model), search.settings.seed, higher=quality.better == "higher") as study,
    ):
        tally, before = Tally(), len(study.keys)
        progress = SweepProgress(console, [1.0] * max(search.trials - before, 0))
        trial = _Trial(search, model, store, study, progress, interrupts, tally, open_bench, console)
        repeats = 0
        try:
            with progress:
                while len(study.keys) < search.trials and repeats < _REPEATS:
                    check_room(directory)
                    repeats = 0 if trial.run() else repeats + 1
        except KeyboardInterrupt:
            tally.interrupted = True
        keys = study.keys[: search.trials]
        rows = store.rows(keys)
        shown = plan.model_copy(update={"cells": tuple(row.cell for row in rows)})
        write_plan(plan_text(shown, model, [row.key for row in rows]), directory, store)
    return SearchOutcome(
        search.trials,
        min(before, search.trials),
        tuple(row for row in rows if row.ok),
        tuple(tally.failed.values()),
        repeats >= _REPEATS or search.trials < search.settings.trials,
        tally.interrupted,
        tally.logged,
    )


@dataclass
class _Trial:
    """Runs one proposal after the other."""

    search: SearchPlan
    model: str
    store: Store
    study: Study
    progress: SweepProgress
    interrupts: Interrupts
    tally: Tally
    open_bench: Callable[[], Bench]
    console: Console
    local: Local | None = None

    def run(self) -> bool:
        """Measure the next proposal. Returns whether it was a new cell."""
        proposed = self.study.ask()
        raw = self.search.space.proposal(proposed)
        known = set(self.study.keys)
        try:
            cell = cell_of(raw, self.search.first.opened.levels, self.search.file.resolve().parent)
        except UsageError as error:  # options that are valid alone and not together
            key = digest(raw)
            if key not in known:
                self._cannot_run(key, raw, str(error.args[0]))
            self._tell(proposed, key, None)
            return key not in known
        key = self.search.first.key(cell, self.model)
        if key not in known:
            self._measure(key, cell)
        self._tell(proposed, key, self.store.row(key))
        return key not in known

    def _measure(self, key: str, cell: Cell) -> None:
        row = self.store.row(key)
        if row is not None and row.ok:
            self.progress.begin(cell.label)
            metric = self.search.quality
            self.progress.end(f"{cell.label}  {metric.text(row.metrics[metric.name])}", aside="measured before")
            return
        plan = self.search.first
        if self.local is None:
            self.local = Local(plan, self.model, opened(plan, self.open_bench, self.store, self.console))
        recorder = Recorder(plan, self.store, self.progress, self.interrupts, self.tally)
        self.local.run([Task(key, cell, range(plan.images))], recorder)

    def _cannot_run(self, key: str, raw: dict[str, object], reason: str) -> None:
        label = " · ".join(map(str, raw.values()))
        self.progress.begin(label)
        self.progress.end(f"✗ {label}: {reason}", failed=True)
        self.tally.failed[key] = (label, reason)

    def _tell(self, proposed: Proposed, key: str, row: Row | None) -> None:
        """Tell the study what became of a proposal, in one piece."""
        values = (row.network_passes, row.metrics[self.search.quality.name]) if row is not None and row.ok else None
        with self.interrupts.held():
            self.study.tell(proposed, key, values)
