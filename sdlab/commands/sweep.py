"""`sdlab sweep FILE`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdlab.commands.paths import path_argument, path_option
from sdlab.system.errors import SdlabError
from sdlab.system.interrupts import STATUS
from sdlab.system.output import print_error, remark
from sdlab.system.text import shown

if TYPE_CHECKING:
    from rich.console import Console

    from sdlab.sweep.cost import Estimate
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
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda, instead of the file's")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16, instead of the file's")] = None,
    model: Annotated[
        str | None, typer.Option(help="name, file or folder of a model, or file.py:function, instead of the file's")
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="compile the U-Net, for GPUs; takes minutes before the first cell")
    ] = False,
) -> None:
    """Run a sweep, then draw its table, contact sheet and plots.

    Cells that already have a result are not run again.
    """
    from sdlab.sweep.bench import ModelBench
    from sdlab.sweep.identity import identify

    given = {"images": images, "seed": seed, "batch": batch, "device": device, "dtype": dtype, "model": model}
    given["compile"] = compile or None  # without the option, the value in the file counts
    overrides = {key: value for key, value in given.items() if value is not None}
    raise typer.Exit(sweep(file, identify, ModelBench, out=out, dry_run=dry_run, overrides=overrides))


def sweep(
    path: str | Path,
    identify: Callable[[Plan], str],
    open_bench: Callable[[Plan], Bench],
    *,
    out: str | Path = "runs",
    dry_run: bool = False,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> int:
    """Run a sweep file, or only list its cells with `dry_run`. Returns the exit status.

    `identify` checks a plan and identifies its model, including the weights, without loading them. `open_bench` loads
    the model, and is called only if a cell has to run. `overrides` replace top-level values of the file. Mistakes are
    printed to stderr, one line each.
    """
    from rich.console import Console

    from sdlab.sweep.plan import load_plan

    console = console or Console()
    try:
        plan = load_plan(path, overrides)
        directory = Path(out) / plan.name
        if dry_run:
            _describe(plan, identify(plan), directory, console)
            return 0
        from sdlab.report.run_report import report  # not needed by a dry run, and slow to import
        from sdlab.sweep.run import run_sweep

        outcome = run_sweep(plan, identify(plan), lambda: open_bench(plan), directory, console)
        if not outcome.interrupted:
            report(directory, console, redraw=outcome.ran > 0)
        _print_outcome(outcome, directory, console)
        return outcome.status
    except SdlabError as error:
        return print_error(error)
    except KeyboardInterrupt:
        remark("interrupted; finished cells are kept, and the same command runs the rest")
        return STATUS


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
        text = f"all {outcome.total} cells were done already; see {directory}"
    else:
        before = f", {outcome.kept} were done already" if outcome.kept else ""
        text = f"{outcome.ran} cell{'s' * (outcome.ran != 1)} run{before}; see {directory}"
    line(console, text)


def _describe(plan: Plan, model: str, directory: Path, console: Console) -> None:
    """Print the cells and the expected time. Nothing is written."""
    from rich.table import Table
    from rich.text import Text

    from sdlab.sweep.cost import estimate
    from sdlab.sweep.progress import duration
    from sdlab.sweep.run import STORE
    from sdlab.sweep.store import Store
    from sdlab.system.console import line, show_table

    rows, finished = [], set()
    if (directory / STORE).is_file():
        with Store(directory / STORE) as store:
            rows, finished = store.rows(), store.finished()
    cost = estimate(plan, rows)
    todo = [i for i, cell in enumerate(plan.cells) if plan.key(cell, model) not in finished]
    title = Text(shown(f"{plan.name}: {len(plan.cells)} cells"))
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for header, side in (("", "right"), ("cell", "left"), ("passes/image", "right"), ("time", "right"), ("", "left")):
        table.add_column(header, justify=side, overflow="fold", max_width=100)  # type: ignore[arg-type]
    for i, cell in enumerate(plan.cells):
        state = "done" if i not in todo else "cannot run" if cost.problems[i] else "to run"
        price = ("?", "?") if cost.problems[i] else (f"{cost.passes[i]:g}", duration(cost.seconds([i])))
        table.add_row(str(i + 1), Text(shown(cell.label)), *price, state)
    show_table(console, table)
    problems = [f"{plan.cells[i].label}: {problem}" for i, problem in enumerate(cost.problems) if problem]
    for text in (*(f"note: {note}" for note in (*plan.notes, *problems)), *_totals(plan, cost, todo)):
        line(console, text)


def _totals(plan: Plan, cost: Estimate, todo: list[int]) -> list[str]:
    from sdlab.sweep.passes import reference_passes
    from sdlab.sweep.progress import duration

    passes = cost.total(todo)
    references = reference_passes(plan, [plan.cells[i] for i in todo if not cost.problems[i]]) * plan.images
    beside = f", and {references:,.0f} for the reference errors" if references else ""
    seconds = cost.seconds(todo) + references * cost.seconds_per_pass
    speed = f"{1000 * cost.seconds_per_pass:.3g} ms per pass and image ({cost.source})"
    cells = f"{len(todo)} of {len(plan.cells)} cells to run"
    return [
        f"{cells}, {plan.images} images each: {passes:,.0f} network passes{beside}",
        f"about {duration(seconds)} on {plan.device} in {plan.dtype}, at {speed}",
    ]
