"""`sdlab search FILE`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdlab.commands.paths import path_argument, path_option
from sdlab.commands.reported import reported

if TYPE_CHECKING:
    from rich.console import Console

    from sdlab.search.document import SearchPlan
    from sdlab.search.run import SearchOutcome
    from sdlab.sweep.plan import Plan
    from sdlab.sweep.results import Bench

EXAMPLE = "sdlab search experiments/search_scenes.toml --dry-run"
FRONT, FILE = "front", "front.toml"


def command(
    file: Annotated[Path, path_argument("search file (TOML): a sweep file with ranges like {from = 1.0, to = 8.0}")],
    out: Annotated[Path, path_option("folder for run directories")] = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list the ranges and estimate the time")] = False,
    trials: Annotated[int | None, typer.Option(help="cells to measure, instead of the file's")] = None,
    images: Annotated[int | None, typer.Option(help="images, half of them for the trials")] = None,
    seed: Annotated[int | None, typer.Option(help="first seed, instead of the file's")] = None,
    batch: Annotated[int | None, typer.Option(help="images per batch, instead of the file's")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda, instead of the file's")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16, instead of the file's")] = None,
    model: Annotated[
        str | None, typer.Option(help="name, file or folder of a model, or file.py:function, instead of the file's")
    ] = None,
) -> None:
    """Search for the cells that are best in a metric and in network passes, and measure them on images of their own.

    The same command continues an interrupted search.
    """
    from sdlab.sweep.bench import ModelBench
    from sdlab.sweep.identity import identify

    given = {"trials": trials, "images": images, "seed": seed, "batch": batch, "device": device, "dtype": dtype}
    overrides = {key: value for key, value in {**given, "model": model}.items() if value is not None}
    raise typer.Exit(search(file, identify, ModelBench, out=out, dry_run=dry_run, overrides=overrides))


@reported("interrupted; finished trials are kept, and the same command runs the rest")
def search(
    path: str | Path,
    identify: Callable[[Plan], str],
    open_bench: Callable[[Plan], Bench],
    *,
    out: str | Path = "runs",
    dry_run: bool = False,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> int:
    """Run a search file, or only list its ranges with `dry_run`. Returns the exit status.

    `identify`, `open_bench` and `overrides` are those of `sweep`. Mistakes are printed to stderr, one line each.
    """
    from rich.console import Console

    from sdlab.search.document import load_search
    from sdlab.search.study import check_installed

    console = console or Console()
    check_installed()
    plan = load_search(path, overrides)
    directory = Path(out) / plan.name
    identify(plan.second)  # its metrics are checked before the first trial
    model = identify(plan.first)
    if dry_run:
        _describe(plan, directory, console)
        return 0
    from sdlab.search.run import run_search

    outcome = run_search(plan, model, lambda: open_bench(plan.first), directory, console)
    if outcome.interrupted:
        return _interrupted(outcome, directory, console)
    return max(outcome.status, _measure_front(plan, outcome, identify, open_bench, directory, console))


def _interrupted(outcome: SearchOutcome, directory: Path, console: Console) -> int:
    from sdlab.system.console import line

    done = f"{len(outcome.rows)} of {outcome.trials} trials are kept in {directory}"
    line(console, f"interrupted: {done}; the same command runs the rest")
    return outcome.status


def _measure_front(
    plan: SearchPlan,
    outcome: SearchOutcome,
    identify: Callable[[Plan], str],
    open_bench: Callable[[Plan], Bench],
    directory: Path,
    console: Console,
) -> int:
    """Measure the front on the second half of the images, and print and write its table. Returns the exit status."""
    from rich.console import Console as Quiet

    from sdlab.report.front_plot import plot_front
    from sdlab.report.markdown import markdown
    from sdlab.report.run_report import report
    from sdlab.report.stored_run import opened_run
    from sdlab.report.terminal import print_table
    from sdlab.search.front import front_of, front_table
    from sdlab.search.sweep_file import sweep_file
    from sdlab.sweep.run import run_sweep
    from sdlab.system.console import line
    from sdlab.system.errors import RunError
    from sdlab.system.files import replacing

    chosen = front_of(outcome.rows, plan.quality)
    if not chosen:
        raise RunError(f"all {outcome.trials} trials failed; see the lines above and {directory}")
    if outcome.exhausted:
        line(console, f"note: there are {len(outcome.rows)} cells in the ranges; all have been measured")
    line(console, f"the front of {len(chosen)} cells, on the other {plan.second.images} images:")
    second = plan.second.model_copy(update={"cells": tuple(row.cell for row in chosen)})
    measured = run_sweep(second, identify(second), lambda: open_bench(second), directory / FRONT, console)
    if measured.interrupted:
        line(console, "interrupted: the trials are kept, and the same command measures the rest of the front")
        return measured.status
    report(directory / FRONT, Quiet(quiet=True), redraw=measured.ran > 0)
    with opened_run(directory / FRONT) as run:
        table = front_table(plan, second, run.rows, chosen, run.real)
        plot_front(directory / "front.png", plan.quality, plan.name, outcome.rows, run.rows, second.units)
    about = f"The Pareto front that sdlab search found with {plan.file.name}, on seeds that the search did not use."
    toml = sweep_file(about, second, second.cells, plan.prompts, plan.file.resolve().parent)
    for name, text in (("front.md", markdown(table)), (FILE, toml)):
        with replacing(directory / name) as draft:
            draft.write_text(text, encoding="utf-8")
    print_table(console, table)
    failed = f", {len(outcome.failed)} failed" if outcome.failed else ""
    line(console, f"{len(outcome.rows)} trials{failed}; all of them: sdlab report {directory}")
    line(console, f"to sweep the front on new seeds: sdlab sweep {directory / FILE}")
    return measured.status


def _describe(plan: SearchPlan, directory: Path, console: Console) -> None:
    """Print the ranges and the expected time. Nothing is written."""
    from rich.table import Table
    from rich.text import Text

    from sdlab.sweep.cost import estimate
    from sdlab.sweep.progress import duration
    from sdlab.sweep.run import STORE
    from sdlab.sweep.store import Row, Store
    from sdlab.system.console import line, show_table
    from sdlab.system.text import shown

    table = Table(box=None, pad_edge=False, title=Text(shown(plan.name)), title_justify="left")
    table.add_column("axis")
    table.add_column("alternatives", overflow="fold")
    for axis in plan.space.axes:
        table.add_row(axis, Text(shown(", ".join(plan.space.texts(axis)))))
    show_table(console, table)
    rows = list[Row]()
    if (directory / STORE).is_file():
        with Store(directory / STORE, only_read=True) as store:
            rows = store.rows()
    cost = estimate(plan.first, rows)
    for cell, problem in zip(plan.first.cells, cost.problems, strict=True):
        if problem:
            line(console, f"note: {cell.label}: {problem}")
    runs = [passes for passes, problem in zip(cost.passes, cost.problems, strict=True) if not problem]
    mean = sum(runs) / max(1, len(runs))
    images, trials = plan.first.images, plan.trials
    best = f"{plan.quality.label} against network passes"
    line(console, f"{trials} trials of {images} images for {best}; the front on {plan.second.images} others")
    seconds = trials * images * mean * cost.seconds_per_pass
    line(console, f"about {duration(seconds)} for the trials, at the {mean:.3g} passes of a mean cell ({cost.source})")
