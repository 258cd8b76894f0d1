"""The runner of a sweep. It runs the cells that are missing from the store and stores each when it is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from statistics import median

from pydantic import TypeAdapter
from pydantic_core import from_json
from rich.console import Console

from sdlab.sweep.cell import Cell
from sdlab.sweep.executors.base import Outcome, Ready, Running, Task
from sdlab.sweep.executors.local import Local
from sdlab.sweep.passes import counted
from sdlab.sweep.plan import Plan
from sdlab.sweep.progress import SweepProgress, duration
from sdlab.sweep.provenance import OTHER_WORK
from sdlab.sweep.results import Bench, CellResult
from sdlab.sweep.rounds import Unsettled, images_of, joined, rounds
from sdlab.sweep.store import Row, Store
from sdlab.sweep.timing import complete, time_in_rounds
from sdlab.system.errors import RunError
from sdlab.system.files import append, replacing
from sdlab.system.interrupts import STATUS as INTERRUPTED
from sdlab.system.interrupts import Interrupts
from sdlab.system.lock import locked
from sdlab.system.output import remark

STORE = "results.sqlite"
PLAN = "plan.json"
LOG = "errors.log"  # tracebacks of failed cells
REAL = "real"  # the note in the store with the metrics of real pictures
_MOST_IMAGES = 10**7  # of a cell, in a plan read from a store
_ROOM = 16 * 2**20  # bytes that must be free on the disk before a cell starts

OnResult = Callable[[Cell, CellResult], object]


@dataclass(frozen=True)
class SweepOutcome:
    """The outcome of a sweep."""

    total: int  # cells to run: all of the plan, or those of a shard
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
    plan: Plan,
    model: str,
    open_bench: Callable[[], Bench],
    directory: Path,
    console: Console,
    cells: Sequence[int] | None = None,
    unsettled: Unsettled = lambda plan, rows, images: (),
    on_result: OnResult = lambda cell, result: None,
    start: Callable[[], Running] | None = None,
) -> SweepOutcome:
    """Run the missing cells of `plan` in a run directory, where the resolved plan and the store are kept.

    `model` identifies the model down to its weights. `open_bench` is called only if a cell has to run. `cells` are the
    indices of the cells to run, by default all. If the plan stops early, `unsettled` chooses the cells of each round
    after the first. `on_result` is called with each cell that has been stored. `start` starts an executor, in place of
    a bench in this process; it too is called only if a cell has to run.

    Raises:
        RunError: the directory is in use, the store is damaged, or the disk is full; finished cells are kept.
        SdlabError: from `open_bench` or the executor.
    """
    keys = [plan.key(cell, model) for cell in plan.cells]
    with (
        Interrupts().listening() as interrupts,
        locked(directory),
        Store(directory / STORE) as store,
        ExitStack() as stack,
    ):
        mine = range(len(keys)) if cells is None else cells
        tally, before = Tally(), images_of(plan, keys, store)
        bench: Bench | None = None
        running: Running | None = None
        try:
            write_plan(plan_text(plan, model, keys), directory, store)
            for images, members in rounds(plan, keys, mine, store, unsettled):
                there = images_of(plan, keys, store)
                want = {i: min(images, plan.images_of(plan.cells[i])) for i in members}
                todo = [i for i in members if there.get(keys[i], 0) < want[i]]
                if not todo:
                    continue
                if running is None:
                    if start is None:
                        bench = opened(plan, open_bench, store, console)
                        running = Local(plan, model, bench)
                    else:
                        running = stack.enter_context(closing(start()))
                        print_columns(plan, console)
                if plan.until is not None:
                    console.print(f"up to {images} images: {len(todo)} cell{'s' * (len(todo) != 1)}", style="dim")
                progress = SweepProgress(console, [counted(plan, plan.cells[i])[0] for i in todo])
                tasks = [Task(keys[i], plan.cells[i], range(there.get(keys[i], 0), want[i])) for i in todo]
                with progress:
                    running.run(tasks, Recorder(plan, store, progress, interrupts, tally, on_result))
            if plan.timing_rounds and not complete(plan, rows := store.rows([keys[i] for i in mine])):
                bench = bench or opened(plan, open_bench, store, console)
                _time(plan, bench, store, rows, console, interrupts)
        except KeyboardInterrupt:
            tally.interrupted = True
        kept = {keys[i] for i in mine if keys[i] in before} - tally.ran - tally.failed.keys()
    failed = tuple(tally.failed.values())
    return SweepOutcome(len(mine), len(kept), len(tally.ran), failed, tally.interrupted, tally.logged)


def opened(plan: Plan, open_bench: Callable[[], Bench], store: Store, console: Console) -> Bench:
    """Open the bench, and store what all cells share."""
    bench = open_bench()
    _share(store, Ready(bench.real(), bench.inputs))
    print_columns(plan, console)
    return bench


def _share(store: Store, ready: Ready) -> None:
    """Store what all cells share."""
    store.set_note(REAL, json.dumps(ready.real))
    if ready.inputs is not None:
        store.set_inputs(ready.inputs)


def print_columns(plan: Plan, console: Console) -> None:
    """Print what the lines of finished cells show."""
    columns = [*(info.label for info in plan.measures), "time"]
    console.print(f"each cell: {', '.join(columns)}", style="dim")


def _time(
    plan: Plan, bench: Bench, store: Store, rows: Sequence[Row], console: Console, interrupts: Interrupts
) -> None:
    """Time the cells of these rows in rounds, and store the times of all of them at the end."""
    known = {row.key: row for row in rows if row.ok}
    console.print(f"timing: {plan.timing_rounds} rounds of {len(known)} cells, after one to warm up", style="dim")
    passes = [row.network_passes for row in known.values()] * (plan.timing_rounds + 1)
    progress = SweepProgress(console, passes, "timing")

    def on_progress(share: float) -> None:
        interrupts.check()
        progress.update(share)

    cells = {key: row.cell for key, row in known.items()}
    with progress:
        found = time_in_rounds(plan, bench, cells, lambda cell: progress.begin(cell.label), progress.done, on_progress)
    with interrupts.held():
        for key, (times, shares) in found.items():
            row = known[key]
            origin = {**row.provenance, OTHER_WORK: median(shares) if shares else None}
            store.set_times(key, replace(times, metrics=row.times.metrics), origin)


@dataclass
class Tally:
    """The outcome so far."""

    ran: set[str] = field(default_factory=set)  # keys
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)  # by key
    logged: bool = False
    interrupted: bool = False


@dataclass
class Recorder:
    """Stores the outcome of each task and shows it: what the runner of a sweep is to its executor."""

    plan: Plan
    store: Store
    progress_bar: SweepProgress
    interrupts: Interrupts
    tally: Tally
    on_result: OnResult = lambda cell, result: None
    shared: bool = False

    def opened(self, ready: Ready) -> None:
        """Store what all cells share, once."""
        if not self.shared:
            self.shared = True
            for line in ready.remarks:
                remark(line)
            _share(self.store, ready)

    def began(self, task: Task) -> None:
        """Show that a task runs, if there is space on the disk for its result."""
        check_room(self.store.path.parent)
        self.progress_bar.begin(task.cell.label, task.key)

    def progress(self, task: Task, share: float) -> None:
        """Show the progress of a task."""
        self.check()
        self.progress_bar.update(share, task.key)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has arrived."""
        self.interrupts.check()

    def finished(self, task: Task, outcome: Outcome) -> None:
        """Store the result of a task with that of earlier images of its cell, or the reason why it failed."""
        cell, key = task.cell, task.key
        if outcome.result is None:
            with self.interrupts.held():
                if outcome.trace:
                    self._log(cell, outcome.trace)
                if not task.images.start:  # otherwise the row keeps the images that it has
                    self.store.add_failed(key, cell, outcome.reason, outcome.origin)
                self.tally.failed[key] = (cell.label, outcome.reason)
                self.tally.ran.discard(key)
            self.progress_bar.end(f"✗ {cell.label}: {outcome.reason}", failed=True, key=key)
            return
        result = outcome.result
        with self.interrupts.held():
            if task.images.start and (row := self.store.row(key)) is not None:
                result = joined(row, result)
                found = (outcome.origin.get(OTHER_WORK), row.provenance.get(OTHER_WORK))
                shares = [one for one in found if isinstance(one, float)]
                self.store.extend(key, result, {**outcome.origin, OTHER_WORK: max(shares, default=None)})
            else:
                self.store.add(key, cell, result, outcome.prompts, outcome.origin)
            self.tally.ran.add(key)
        self.on_result(cell, result)
        numbers = "  ".join(info.text(result.metrics[info.name]) for info in self.plan.measures)
        label = f"{cell.label:<{self._widest}}"
        self.progress_bar.end(f"{label}  {numbers}", aside=duration(outcome.seconds), key=key)

    @cached_property
    def _widest(self) -> int:
        return max(len(cell.label) for cell in self.plan.cells)

    def _log(self, cell: Cell, trace: str) -> None:
        """Append a traceback to the log of the run. The sweep continues if the log cannot be written."""
        with suppress(OSError):
            append(self.store.path.parent / LOG, f"{datetime.now():%Y-%m-%d %H:%M:%S} {cell.label}\n{trace}\n")
            self.tally.logged = True


def check_room(directory: Path) -> None:
    """Check for space on the disk before a cell is computed, so that its result can be stored."""
    free = shutil.disk_usage(directory).free
    if free < _ROOM:
        raise RunError(
            f"no space left on the disk of {directory}: {free / 2**20:.0f} MiB free, {_ROOM // 2**20} MiB needed; "
            "finished cells are kept, and the same command runs the rest"
        )


def plan_text(plan: Plan, model: str, keys: Sequence[str]) -> str:
    """A resolved plan as JSON, with the identity of its model and the keys of its cells."""
    fields = {**plan.model_dump(), "model_identity": model, "keys": list(keys)}
    return json.dumps(fields, indent=1, ensure_ascii=False)


def write_plan(text: str, directory: Path, store: Store) -> None:
    """Write a resolved plan, as JSON, to a file for users, and to the store for the report."""
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
        fields = from_json(text)  # rejects halves of surrogate pairs, which no file can store
        fields.setdefault("source", {"name": fields["model"]})  # which earlier versions did not write
        plan = Plan.model_validate({name: fields[name] for name in Plan.model_fields if name in fields})
        keys = TypeAdapter(list[str]).validate_python(fields["keys"])
        if len(keys) != len(plan.cells) or not 0 < plan.images <= _MOST_IMAGES or plan.seed < 0:
            raise ValueError("its cells, images or seeds")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise RunError(f"{store.path} contains a damaged plan; run the sweep again") from None
    return plan, keys
