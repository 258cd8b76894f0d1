"""`sdlab grid MODEL`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdlab.commands.paths import path_option
from sdlab.commands.reported import reported
from sdlab.system.errors import RunError, UsageError
from sdlab.system.limits import Range

if TYPE_CHECKING:
    from rich.console import Console

    from sdlab.sweep.bench import ModelBench
    from sdlab.sweep.plan import Plan

EXAMPLE = 'sdlab grid scenes --steps 6 --sampler dpmpp_2m --guidance "cfg scale=2"'
FILE = "grid.toml"
_STEPS, _IMAGES = Range(2, 100), Range(16, 4096)


def command(
    model: Annotated[str, typer.Argument(help="name, file or folder of a model, or file.py:function")],
    steps: Annotated[int, typer.Option(help="steps of the sampler")] = 8,
    sampler: Annotated[str, typer.Option(metavar="<choice>", help="a deterministic sampler")] = "dpmpp_2m",
    guidance: Annotated[str, typer.Option(metavar="<choice>", help='like "cfg scale=3"')] = "none",
    prompts: Annotated[
        str | None, typer.Option(metavar="<name>", help="a set of prompts, like scenes, or a text file of them")
    ] = None,
    images: Annotated[int, typer.Option(help="images: half to find the grid, half to measure it")] = 64,
    seed: Annotated[int, typer.Option(help="first seed")] = 0,
    batch: Annotated[int, typer.Option(help="images per batch")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16")] = "float32",
    out: Annotated[Path, path_option("folder for run directories")] = Path("runs"),
) -> None:
    """Find the noise levels that suit a model, a sampler and a number of steps, from the model's own paths.

    The grid is printed, and written as a sweep that compares it with others.
    """
    from sdlab.sweep.bench import ModelBench
    from sdlab.sweep.identity import identify

    given = {"model": model, "images": images, "seed": seed, "batch": batch, "device": device, "dtype": dtype}
    choices = {"sampler": sampler, "guidance": guidance}
    raise typer.Exit(find(given, choices, steps, prompts, identify, ModelBench, out=out))


@reported("interrupted; nothing was written")
def find(
    given: Mapping[str, Any],
    choices: Mapping[str, str],
    steps: int,
    prompts: str | None,
    identify: Callable[[Plan], str],
    open_bench: Callable[[Plan], ModelBench],
    *,
    out: Path,
    console: Console | None = None,
) -> int:
    """Find a grid, measure it on other images, and write both. Returns the exit status.

    `given` are top-level values of a sweep, `choices` the sampler and the guidance as on the command line.
    """
    from rich.console import Console

    from sdlab.report.run_report import report
    from sdlab.report.stored_run import opened_run
    from sdlab.report.table import make_table
    from sdlab.report.terminal import print_table
    from sdlab.search.document import halves
    from sdlab.search.grids import find_grids, passes
    from sdlab.search.sweep_file import sweep_file
    from sdlab.sweep.passes import network_passes
    from sdlab.sweep.progress import SweepProgress
    from sdlab.sweep.run import run_sweep
    from sdlab.system.console import line
    from sdlab.system.files import replacing
    from sdlab.system.toml import toml

    console = console or Console()
    plan, table = _plan(given, choices, steps, prompts)
    first, second = halves(plan)
    identify(first)
    like, directory = plan.cells[0], out / plan.name
    bench = open_bench(first)
    with SweepProgress(console, passes(steps, first.opened.levels, network_passes(like, first.opened.levels))) as bar:
        found = [one for one in find_grids(bench, like, bar) if one.error < float("inf")]
    if not found:
        raise RunError(f"{like.label}: no grid has a finite error; try another sampler or guidance")
    second = second.model_copy(update={"cells": (*(one.cell for one in found), *second.cells)})
    line(console, f"the grids on the other {second.images} images:")
    outcome = run_sweep(second, identify(second), lambda: open_bench(second), directory, console)
    if outcome.interrupted:
        line(console, "interrupted; the same command starts again")
        return outcome.status
    report(directory, Console(quiet=True), redraw=outcome.ran > 0)
    with opened_run(directory) as run:
        print_table(console, make_table(run.plan, run.rows, run.real))
    about = f"Grids that sdlab grid found for {plan.model}, and others, on seeds that it did not use."
    with replacing(directory / FILE) as draft:
        draft.write_text(sweep_file(about, second, second.cells, table, Path.cwd()), encoding="utf-8")
    for one in found:
        line(console, f"{one.method}: grid = {toml({'name': 'explicit', 'sigmas': one.sigmas})}")
    line(console, f"to sweep them on new seeds: sdlab sweep {directory / FILE}")
    return outcome.status


def _plan(
    given: Mapping[str, Any], choices: Mapping[str, str], steps: int, prompts: str | None
) -> tuple[Plan, dict[str, Any]]:
    """The sweep of standard grids, and its table of prompts.

    Raises:
        UsageError: there are mistakes, one line for each.
    """
    from sdlab.commands.inline_choice import parse_choice
    from sdlab.commands.inline_plan import inline_plan
    from sdlab.search.grids import STANDARD
    from sdlab.sweep.axes import SAMPLER
    from sdlab.system.files import file_words

    _STEPS.check("--steps", steps)
    _IMAGES.check("--images", given["images"])
    try:
        sampler, _ = parse_choice(choices["sampler"])
    except ValueError as error:
        raise UsageError(f"--sampler: {error}") from None
    name = f"grid_{file_words(Path(given['model']).name, 60)}_{sampler.rpartition(':')[2]}_{steps}"
    plan, table = inline_plan("sdlab grid", name, given, {"grid": list(STANDARD), "steps": steps}, choices, prompts)
    if SAMPLER.build(plan.cells[0].sampler.name, **plan.cells[0].sampler.options).stochastic:
        text = "draws noise, so its samples follow no path; choose a deterministic sampler, like dpmpp_2m"
        raise UsageError(f"--sampler: {plan.cells[0].sampler.label} {text}")
    return plan, table
