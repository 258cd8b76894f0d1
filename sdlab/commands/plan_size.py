"""`sdlab plan-size RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdlab.commands.paths import path_argument

EXAMPLE = "sdlab plan-size runs/cfg_vs_steps --difference 0.02 --metric prompt_accuracy"


def command(
    run: Annotated[Path, path_argument("a run directory")],
    difference: Annotated[
        float, typer.Option(metavar="<number>", help="the difference to find, in units of the metric")
    ],
    metric: Annotated[str | None, typer.Option(metavar="<name>", help="the metric, if the run has several")] = None,
    power: Annotated[float, typer.Option(metavar="<share>", help="the probability of finding it")] = 0.8,
    format: Annotated[
        str | None, typer.Option(metavar="<name>", help="table, md, csv, json, parquet, latex or html, on stdout")
    ] = None,
) -> None:
    """Print how many images a difference between two cells needs.

    The variance is that of a finished run, paired image by image. A short run of each setting is enough for it.
    """
    from rich.console import Console

    from sdlab.report.plan_size import plan_size
    from sdlab.report.stored_run import opened_run
    from sdlab.report.view import check_format, print_as

    form = check_format(format)
    with opened_run(run) as opened:
        table = plan_size(opened, difference, metric, power)
    print_as(form, table, Console(), "sizes")
