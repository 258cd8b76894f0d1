"""`sdlab sweep FILE`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdlab.commands.paths import path_argument, path_option
from sdlab.commands.reported import reported
from sdlab.system.errors import UsageError
from sdlab.system.text import shown

if TYPE_CHECKING:
    from rich.console import Console

    from sdlab.sweep.cost import Estimate
    from sdlab.sweep.executors.base import Executor
    from sdlab.sweep.plan import Plan
    from sdlab.sweep.results import Bench
    from sdlab.sweep.run import SweepOutcome

EXAMPLE = "sdlab sweep experiments/cfg_vs_steps.toml --dry-run"


def command(
    file: Annotated[Path, path_argument("sweep file (TOML); those shipped with sdlab work in any folder")],
    out: Annotated[Path, path_option("folder for run directories")] = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list the cells and estimate the time")] = False,
    images: Annotated[int | None, typer.Option(help="images per cell, instead of the file's")] = None,
    seed: Annotated[int | None, typer.Option(help="first seed, instead of the file's")] = None,
    batch: Annotated[int | None, typer.Option(help="images per batch, instead of the file's")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, or several like cuda:0,cuda:1, instead of the file's")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16, instead of the file's")] = None,
    model: Annotated[
        str | None, typer.Option(help="name, file or folder of a model, or file.py:function, instead of the file's")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="<i/n>", help="run only part i of n, on one of n machines; see sdlab merge")
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(metavar="<name>", help='run cells on ray or submitit, like "ray workers=4"; see many-machines.md'),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(metavar="<tracker>", help="show finished cells in tensorboard, trackio, wandb or mlflow too"),
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="compile the U-Net, for GPUs; takes minutes before the first cell")
    ] = False,
) -> None:
    """Run a sweep, then draw its table, interactive page, contact sheet and plots.

    Cells that already have a result are not run again.
    """
    from sdlab.sweep.bench import ModelBench
    from sdlab.sweep.identity import identify

    devices = device.split(",") if device is not None and "," in device else device
    given = {"images": images, "seed": seed, "batch": batch, "device": devices, "dtype": dtype, "model": model}
    given["compile"] = compile or None  # without the option, the value in the file counts
    overrides = {key: value for key, value in given.items() if value is not None}
    raise typer.Exit(
        sweep(
            file,
            identify,
            ModelBench,
            out=out,
            dry_run=dry_run,
            overrides=overrides,
            shard=shard,
            executor=executor,
            log=log,
        )
    )


@reported("interrupted; finished cells are kept, and the same command runs the rest")
def sweep(
    path: str | Path,
    identify: Callable[[Plan], str],
    open_bench: Callable[[Plan], Bench],
    *,
    out: str | Path = "runs",
    dry_run: bool = False,
    overrides: Mapping[str, Any] | None = None,
    shard: str | None = None,
    executor: str | None = None,
    log: str | None = None,
    console: Console | None = None,
) -> int:
    """Run a sweep file, or only list its cells with `dry_run`. Returns the exit status.

    `identify` checks a plan and identifies its model, including the weights, without loading them. `open_bench` loads
    the model, and is called only if a cell has to run in this process. `overrides` replace top-level values of the
    file. `shard`, like `"2/8"`, runs a part of the cells in a run directory of its own. `executor`, like
    `"ray workers=4"`, runs the cells in workers, and so does a file with several devices. `log` is an experiment
    tracker. Mistakes are printed to stderr, one line each.
    """
    from rich.console import Console

    from sdlab.sweep.executors.base import Job
    from sdlab.sweep.executors.devices import Devices
    from sdlab.sweep.plan import load_plan
    from sdlab.sweep.shard import Shard
    from sdlab.system.console import line
    from sdlab.system.resources import find

    console = console or Console()
    part = None if shard is None else Shard.of(shard)
    if log is not None:
        from sdlab.trackers import check_tracker

        check_tracker(log)
    chosen = None if executor is None else _executor(executor)
    plan = load_plan(path, overrides, elsewhere=chosen is not None)
    if plan.devices:
        chosen = Devices(plan.devices)
    if chosen is not None and plan.timing_rounds:
        text = "timing_rounds: cells are timed in turn on one device; give one device, without --executor"
        raise UsageError(f"{text}, or timing_rounds = 0")
    if part is not None and plan.until is not None:
        raise UsageError("--shard: a sweep with `until` compares all cells after each round; run it on one machine")
    cells = range(len(plan.cells)) if part is None else part.cells(plan)
    directory = Path(out) / (plan.name if part is None else part.directory(plan.name))
    if dry_run:
        _describe(plan, identify(plan), directory, console, cells)
        return 0
    from sdlab.report.looks import unsettled
    from sdlab.report.run_report import report  # not needed by a dry run, and slow to import
    from sdlab.sweep.run import run_sweep
    from sdlab.sweep.tracking import CellLog

    more: dict[str, Any] = {} if log is None else {"on_result": CellLog(log, plan, directory)}
    model = identify(plan)
    if chosen is not None:
        job = Job.of(plan, model, find(path).resolve().parent, directory)
        more["start"] = partial(chosen.start, job, plan.device.partition(":")[0])
    outcome = run_sweep(plan, model, lambda: open_bench(plan), directory, console, cells, unsettled, **more)
    if part is None and not outcome.interrupted:
        report(directory, console, redraw=outcome.ran > 0)
    _print_outcome(outcome, directory, console)
    if part is not None and not outcome.status:
        line(console, f"after all shards: sdlab merge {Path(out) / plan.name}-*-of-{part.count}")
    return outcome.status


def _executor(text: str) -> Executor:
    """The executor in a command-line option.

    Raises:
        UsageError: there is none, an option is invalid, or a package is missing.
    """
    from sdlab.commands.inline_choice import parse_choice
    from sdlab.sweep.executors.registry import executor

    try:
        name, options = parse_choice(text)
    except ValueError as error:
        raise UsageError(f"--executor: {error}") from None
    return executor(name, options)


def _print_outcome(outcome: SweepOutcome, directory: Path, console: Console) -> None:
    from sdlab.sweep.run import LOG
    from sdlab.system.console import line

    done = outcome.kept + outcome.ran
    if outcome.interrupted:
        text = f"interrupted: {done} of {outcome.total} cells are kept in {directory}; the same command runs the rest"
    elif outcome.failed:
        text = f"{len(outcome.failed)} of {outcome.total} cells failed, {done} are done; see {directory}"
        text += f". Tracebacks are in {directory / LOG}" * outcome.logged
        text += ". The same command tries the failed ones again"
    elif not outcome.ran:
        every = "the only cell was" if outcome.total == 1 else f"all {outcome.total} cells were"
        text = f"{every} done already; see {directory}"
    else:
        before = f", {outcome.kept} {'was' if outcome.kept == 1 else 'were'} done already" if outcome.kept else ""
        text = f"{outcome.ran} cell{'s' * (outcome.ran != 1)} run{before}; see {directory}"
    line(console, text)


def _describe(plan: Plan, model: str, directory: Path, console: Console, cells: Sequence[int]) -> None:
    """Print these cells and the expected time. Nothing is written."""
    from rich.table import Table
    from rich.text import Text

    from sdlab.sweep.cost import estimate
    from sdlab.sweep.progress import duration
    from sdlab.sweep.rounds import images_of
    from sdlab.sweep.run import STORE
    from sdlab.sweep.store import Row, Store
    from sdlab.system.console import line, show_table

    rows, keys = list[Row](), [plan.key(plan.cells[i], model) for i in cells]
    found: Mapping[str, int] = {}
    if (directory / STORE).is_file():
        with Store(directory / STORE, only_read=True) as store:
            rows, found = store.rows(), images_of(plan, keys, store)
    cost = estimate(plan, rows)
    there = {i: found.get(key, 0) for i, key in zip(cells, keys, strict=True)}
    whole = len(cells) == len(plan.cells)
    title = Text(shown(f"{plan.name}: {len(cells)} cells{'' if whole else f' of {len(plan.cells)}'}"))
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    time = "time" if plan.until is None else "time at most"
    for header, side in (("", "right"), ("cell", "left"), ("passes/image", "right"), (time, "right"), ("", "left")):
        widest = 100 if console.is_terminal else None  # in a pipe lines are whole
        table.add_column(header, justify=side, overflow="fold", max_width=widest)  # type: ignore[arg-type]
    for i in cells:
        images = plan.images_of(plan.cells[i])
        done = "done" if there[i] >= images else f"{there[i]} images" if there[i] else ""
        state = done or ("cannot run" if cost.problems[i] else "to run")
        seconds = cost.seconds({i: images})
        price = ("?", "?") if cost.problems[i] else (f"{cost.passes[i]:g}", duration(seconds))
        table.add_row(str(i + 1), Text(shown(plan.cells[i].label)), *price, state)
    show_table(console, table)
    problems = [f"{plan.cells[i].label}: {cost.problems[i]}" for i in cells if cost.problems[i]]
    for text in (*(f"note: {note}" for note in (*plan.notes, *problems)), *_totals(plan, cost, there)):
        line(console, text)


def _totals(plan: Plan, cost: Estimate, there: Mapping[int, int]) -> list[str]:
    """The passes and the time of the cells that lack images: for the first round, and for the most images."""
    if plan.until is None:
        return _total(plan, cost, there, plan.images)
    first, most = (_total(plan, cost, there, images) for images in (plan.looks[0], plan.images))
    return [f"at least: {first[0]}", *first[1:], f"at most: {most[0]}", *most[1:]]


def _total(plan: Plan, cost: Estimate, there: Mapping[int, int], images: int) -> list[str]:
    from sdlab.sweep.passes import reference_passes, round_trip_passes
    from sdlab.sweep.progress import duration

    want = {i: min(images, plan.images_of(plan.cells[i])) for i in there}
    todo = {i: want[i] - count for i, count in there.items() if count < want[i]}
    passes = cost.total(todo)
    references = reference_passes(plan, [plan.cells[i] for i in todo if not cost.problems[i]]) * plan.images
    trips = sum(round_trip_passes(plan, plan.cells[i]) * n for i, n in todo.items() if not cost.problems[i])
    seconds = cost.seconds(todo) + (references + trips) * cost.seconds_per_pass
    beside = f", and {references:,.0f} for the reference errors" if references else ""
    beside += f", and {trips:,.0f} for the round-trip errors" if trips else ""
    speed = f"{1000 * cost.seconds_per_pass:.3g} ms per pass and image ({cost.source})"
    cells = f"{len(todo)} of {len(there)} cells to run"
    timed = {i: min(plan.batch, want[i]) * (plan.timing_rounds + 1) for i in there} if plan.timing_rounds else {}
    if todo and timed:
        beside += f", and {cost.total(timed):,.0f} to time all cells"
        seconds += cost.seconds(timed)
    counts = dict.fromkeys(map(str, (min(want.values(), default=images), images)))
    workers = len(set(plan.devices)) or 1
    where = f"{workers} devices" if workers > 1 else plan.device
    return [
        f"{cells}, {' to '.join(counts)} images each: {passes:,.0f} network passes{beside}",
        f"about {duration(seconds / workers)} on {where} in {plan.dtype}, at {speed}",
    ]
