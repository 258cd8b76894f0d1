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
    image: Annotated[int | None, typer.Option(metavar="<i>", help="the image of a cell, from 0")] = None,
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
    from sdlab.commands.of_run import is_cell
    from sdlab.report.view import check_format, print_as
    from sdlab.system.errors import UsageError
    from sdlab.system.files import check_writable
    from sdlab.system.output import remark

    form = check_format(format)
    if image is not None and not (is_cell(a) or is_cell(b)):
        raise UsageError("--image has no effect, because it is for cells of runs; leave it out")
    if sheet is not None:
        if sheet.suffix.lower() != ".png":
            raise UsageError(f"--sheet: {sheet} must end in .png")
        if sheet.exists() and any(path.exists() and sheet.samefile(path) for path in (a, b)):
            raise UsageError(f"--sheet: {sheet} is one of the pictures; choose another name")
        check_writable(sheet)
    found = compare(*with_models(read(a, device, image or 0), read(b, device, image or 0), model))
    for note in found.notes:
        remark(f"note: {note}")
    if sheet is not None:
        found.draw(sheet)
    print_as(form, found.table, Console(), "diff")
