"""The runner of a sweep. It runs the cells that are missing from the store and stores each when it is done."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console

from sdlab.sweep.cell import Cell
from sdlab.sweep.passes import counted
from sdlab.sweep.plan import Plan
from sdlab.sweep.progress import SweepProgress, duration
from sdlab.sweep.provenance import provenance
from sdlab.sweep.results import Bench, CellFailed, CellResult
from sdlab.sweep.store import Store
from sdlab.system.errors import RunError
from sdlab.system.files import append, replacing
from sdlab.system.interrupts import STATUS as INTERRUPTED
from sdlab.system.interrupts import Interrupts
from sdlab.system.lock import locked

STORE = "results.sqlite"
PLAN = "plan.json"
LOG = "errors.log"  # tracebacks of failed cells
REAL = "real"  # the note in the store with the metrics of real pictures
_MOST_IMAGES = 10**7  # of a cell, in a plan read from a store
_ROOM = 16 * 2**20  # bytes that must be free on the disk before a cell starts


@dataclass(frozen=True)
class SweepOutcome:
    """The outcome of a sweep."""

    total: int  # cells in the plan
    kept: int  # cells that were in the store before
    ran: int  # cells that were run now
    failed: tuple[tuple[str, str], ...] = ()  # (cell, reason)
    interrupted: bool = False
    logged: bool = False  # whether tracebacks of failed cells are in the log of the run

    @property
    def status(self) -> int:
        """The exit status: 130 after an interrupt, 1 if a cell failed, otherwise 0."""
        return INTERRUPTED if self.interrupted else 1 if self.failed else 0


def run_sweep(
    plan: Plan, model: str, open_bench: Callable[[], Bench], directory: Path, console: Console
) -> SweepOutcome:
    """Run the missing cells of `plan` in a run directory, where the resolved plan and the store are kept.

    `model` identifies the model down to its weights. `open_bench` is called only if a cell has to run.

    Raises:
        RunError: the directory is in use, the store is damaged, or the disk is full; finished cells are kept.
        SdlabError: from `open_bench`.
    """
    keys = [plan.key(cell, model) for cell in plan.cells]
    with Interrupts().listening() as interrupts, locked(directory), Store(directory / STORE) as store:
        finished = store.finished()
        todo = [(key, cell) for key, cell in zip(keys, plan.cells, strict=True) if key not in finished]
        tally = _Tally()
        try:
            _write_plan(plan, model, keys, directory, store)
            if todo:
                progress = SweepProgress(console, [counted(plan, cell)[0] for _, cell in todo])
                bench = open_bench()
                store.set_note(REAL, json.dumps(bench.real()))
                if (inputs := bench.inputs) is not None:
                    store.set_inputs(inputs)
                runner = _Runner(plan, bench, store, provenance(plan, model), progress, interrupts, tally)
                columns = [*(info.label for info in plan.measures), "time"]
                console.print(f"each cell: {', '.join(columns)}", style="dim")
                with progress:
                    for key, cell in todo:
                        _check_room(directory)
                        runner.run(key, cell)
        except KeyboardInterrupt:
            tally.interrupted = True
    kept = len(keys) - len(todo)
    return SweepOutcome(len(keys), kept, tally.ran, tuple(tally.failed), tally.interrupted, tally.logged)


@dataclass
class _Tally:
    """The outcome so far."""

    ran: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    logged: bool = False
    interrupted: bool = False


@dataclass(frozen=True)
class _Runner:
    """Runs cells and stores the outcome of each."""

    plan: Plan
    bench: Bench
    store: Store
    origin: dict[str, str | int | None]
    progress: SweepProgress
    interrupts: Interrupts
    tally: _Tally

    def run(self, key: str, cell: Cell) -> None:
        """Run a cell and store its result, or the reason why it failed."""
        self.progress.begin(cell.label)
        start = time.monotonic()
        try:
            result = self.bench.run(cell, self._on_progress)
            _check_finite(self.plan, result)
        except CellFailed as failure:
            with self.interrupts.held():
                if failure.trace:
                    self._log(cell, failure.trace)
                self.store.add_failed(key, cell, str(failure), self.origin)
                self.tally.failed.append((cell.label, str(failure)))
            self.progress.end(f"✗ {cell.label}: {failure}", failed=True)
            return
        with self.interrupts.held():
            self.store.add(key, cell, result, self.bench.prompts, self.origin)
            self.tally.ran += 1
        numbers = "  ".join(info.text(result.metrics[info.name]) for info in self.plan.measures)
        label = f"{cell.label:<{max(len(other.label) for other in self.plan.cells)}}"
        self.progress.end(f"{label}  {numbers}", aside=duration(time.monotonic() - start))

    def _log(self, cell: Cell, trace: str) -> None:
        """Append a traceback to the log of the run. The sweep continues if the log cannot be written."""
        with suppress(OSError):
            append(self.store.path.parent / LOG, f"{datetime.now():%Y-%m-%d %H:%M:%S} {cell.label}\n{trace}\n")
            self.tally.logged = True

    def _on_progress(self, share: float) -> None:
        self.interrupts.check()
        self.progress.update(share)


def _check_finite(plan: Plan, result: CellResult) -> None:
    found = ((info.label, result.metrics[info.name]) for info in plan.measures)
    wrong = [f"{label} is {value}" for label, value in found if not math.isfinite(value)]
    if wrong:
        raise CellFailed(", ".join(wrong))


def _check_room(directory: Path) -> None:
    """Check for space on the disk before a cell is computed, so that its result can be stored."""
    free = shutil.disk_usage(directory).free
    if free < _ROOM:
        raise RunError(
            f"no space left on the disk of {directory}: {free / 2**20:.0f} MiB free, {_ROOM // 2**20} MiB needed; "
            "finished cells are kept, and the same command runs the rest"
        )


def _write_plan(plan: Plan, model: str, keys: list[str], directory: Path, store: Store) -> None:
    """Write the resolved plan to a file for users, and to the store for the report."""
    text = json.dumps({**plan.model_dump(), "model_identity": model, "keys": keys}, indent=1, ensure_ascii=False)
    if store.note(PLAN) != text:
        store.set_note(PLAN, text)
    with replacing(directory / PLAN) as draft:
        draft.write_text(text + "\n", encoding="utf-8")


def read_plan(store: Store) -> tuple[Plan, list[str]]:
    """The plan that a store was last run with, and the keys of its cells.

    Raises:
        RunError: the store has no plan, or a damaged one.
    """
    text = store.note(PLAN)
    if text is None:
        raise RunError(f"{store.path} contains no plan; no sweep has been run there")
    try:
        fields = json.loads(text)
        fields.setdefault("source", {"name": fields["model"]})  # which earlier versions did not write
        plan = Plan.model_validate({name: fields[name] for name in Plan.model_fields if name in fields})
        keys = TypeAdapter(list[str]).validate_python(fields["keys"])
        if len(keys) != len(plan.cells) or not 0 < plan.images <= _MOST_IMAGES or plan.seed < 0:
            raise ValueError("its cells, images or seeds")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise RunError(f"{store.path} contains a damaged plan; run the sweep again") from None
    return plan, keys
