"""`sdlab report RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdlab.commands.paths import path_argument
from sdlab.system.errors import UsageError

EXAMPLE = 'sdlab report runs/cfg_vs_steps --filter "sampler=ddim steps>=10" --sort fid --format latex'


def command(
    run: Annotated[Path, path_argument("a run directory")],
    format: Annotated[
        str | None, typer.Option(metavar="<name>", help="table, md, csv, json, parquet, latex or html, on stdout")
    ] = None,
    filter: Annotated[
        str | None, typer.Option(metavar="<conditions>", help='only some cells: "sampler=ddim,heun scale>=3 fid<5"')
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="<columns>", help="sort by columns: fid, or -clip_score for the highest first")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="<columns>", help="only these columns, in this order: sampler,steps,fid")
    ] = None,
    pivot: Annotated[
        str | None, typer.Option(metavar="<settings>", help='one column over two settings: "steps x scale"')
    ] = None,
    value: Annotated[str | None, typer.Option(metavar="<column>", help="the column that --pivot shows")] = None,
    factors: Annotated[
        bool, typer.Option("--factors", help="how much of the variance between cells is due to each setting")
    ] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="write every plot as PDF too, for papers")] = False,
) -> None:
    """Draw the table, interactive page, contact sheet and plots of a run again.

    With any option but --pdf, only print its table in a format, and write no files. Columns have the names in
    table.csv. The options of samplers, grids and guidance strategies are columns too, like sampler.eta or
    guidance.scale.
    """
    from rich.console import Console

    from sdlab.report.run_report import report
    from sdlab.report.view import View, print_view

    view = View(format=format, filter=filter, sort=sort, columns=columns, pivot=pivot, value=value, factors=factors)
    if view == View():
        report(run, Console(), pdf=pdf)
    elif pdf:
        raise UsageError(
            "--pdf draws the plots of a run and prints no table in another form; leave out the other options"
        )
    else:
        print_view(run, view, Console())
