"""`sdlab diff A B`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdlab.commands.paths import path_argument, path_option

EXAMPLE = "sdlab diff out/generate/a-red-circle-0.png out/generate/a-red-circle-1.png --sheet swaps.png"


def command(
    a: Annotated[
        Path, path_argument("a PNG file of sdlab, A1111 or ComfyUI; a TOML file with options; or a cell: RUN:3")
    ],
    b: Annotated[Path, path_argument("the same")],
    sheet: Annotated[Path | None, path_option("a PNG file with A, each swap and B")] = None,
    model: Annotated[str | None, typer.Option(help="the model of pictures that other tools drew")] = None,
    image: Annotated[int, typer.Option(metavar="<i>", help="the image of a cell, from 0")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    format: Annotated[
        str | None, typer.Option(metavar="<name>", help="table, md, csv, json, parquet, latex or html, on stdout")
    ] = None,
) -> None:
    """Find out which settings make picture B differ from picture A, and by how much each.

    Settings are swapped from A's value to B's, and the picture is drawn again after each swap. A TOML file has the
    options of sdlab generate as keys, like steps = 10. A cell is the directory of its run and its number in the table,
    or its key, after a colon: runs/cfg_vs_steps:3. Pictures of other tools are drawn with the model of the other one,
    or with --model.
    """
    from rich.console import Console

    from sdlab.commands.differing import compare, read, with_models
    from sdlab.report.view import check_format, print_as
    from sdlab.system.output import remark

    form = check_format(format)
    found = compare(*with_models(read(a, device, image), read(b, device, image), model))
    for note in found.notes:
        remark(f"note: {note}")
    if sheet is not None:
        found.draw(sheet)
    print_as(form, found.table, Console(), "diff")
