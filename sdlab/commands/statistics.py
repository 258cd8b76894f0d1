"""`sdlab statistics MODEL`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdlab.commands.paths import path_option
from sdlab.commands.reported import reported
from sdlab.system.limits import Range

if TYPE_CHECKING:
    from rich.console import Console

    from sdlab.sweep.bench import ModelBench
    from sdlab.sweep.plan import Plan

EXAMPLE = 'sdlab statistics scenes --guidance "cfg scale=2" --out scenes_cfg2.safetensors'
_IMAGES, _LEVELS = Range(32, 100_000), Range(16, 1000)


def command(
    model: Annotated[str, typer.Argument(help="name, file or folder of a model, or file.py:function")],
    out: Annotated[Path, path_option("the file to write, .safetensors")],
    guidance: Annotated[str, typer.Option(metavar="<choice>", help='like "cfg scale=3"')] = "none",
    prompts: Annotated[
        str | None, typer.Option(metavar="<name>", help="a set of prompts, like scenes, or a text file of them")
    ] = None,
    images: Annotated[int, typer.Option(help="images; the error falls with their square root")] = 512,
    levels: Annotated[int, typer.Option(help="noise levels, even in log sigma; two passes each")] = 100,
    seed: Annotated[int, typer.Option(help="first seed; take others than you compare on")] = 100_000,
    batch: Annotated[int, typer.Option(help="images per batch")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Measure the statistics of a model that the sampler dpm_solver_v3 takes, for one guidance.

    They are averages over the states that the model itself passes through. The sampler then reads the file.
    """
    from sdlab.sweep.bench import ModelBench
    from sdlab.sweep.identity import identify

    given = {"model": model, "images": images, "seed": seed, "batch": batch, "device": device, "dtype": "float32"}
    raise typer.Exit(run(given, guidance, levels, prompts, identify, ModelBench, out=out))


@reported("interrupted; nothing was written")
def run(
    given: Mapping[str, Any],
    guidance: str,
    levels: int,
    prompts: str | None,
    identify: Callable[[Plan], str],
    open_bench: Callable[[Plan], ModelBench],
    *,
    out: Path,
    console: Console | None = None,
) -> int:
    """Measure, and write the file. Returns the exit status. `given` are top-level values of a sweep."""
    from rich.console import Console

    from samplers.statistics_file import statistics_bytes
    from sdlab.commands.inline_plan import inline_plan
    from sdlab.search.statistics import fine_levels, measure
    from sdlab.sweep.passes import network_passes
    from sdlab.sweep.progress import SweepProgress
    from sdlab.sweep.statistics import of_guidance, of_model
    from sdlab.system.console import line
    from sdlab.system.files import check_writable, replacing

    _IMAGES.check("--images", given["images"])
    _LEVELS.check("--levels", levels)
    console = console or Console()
    cells = {"grid": "exponential", "steps": 2}
    choices = {"sampler": "euler", "guidance": guidance}
    plan, _ = inline_plan("sdlab statistics", "statistics", given, cells, choices, prompts)
    check_writable(out)
    identify(plan)
    fine_levels(levels, plan.opened.levels)
    [like] = plan.cells
    images = {"images": str(plan.images), "seed": str(plan.seed)}
    origin = {**of_model(plan.opened), **of_guidance(like.guidance), **images}
    bench = open_bench(plan)
    passes = network_passes(like, plan.opened.levels) * levels  # two steps there, two calls per level here
    with SweepProgress(console, [passes], "run") as bar:
        found = measure(bench, like, levels, origin, bar)
    with replacing(out) as draft:
        draft.write_bytes(statistics_bytes(found))
    line(console, f'to sample with them: sampler = {{ name = "dpm_solver_v3", statistics = "{out}" }}')
    return 0
