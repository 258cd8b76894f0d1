"""`sdlab bench`."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLE = "sdlab bench --model scenes --batch 32"


def command(
    model: Annotated[str, typer.Option(help="name, file or folder of a model")] = "scenes",
    batch: Annotated[int, typer.Option(metavar="<n>", help="pictures per call")] = 8,
    rounds: Annotated[int, typer.Option(metavar="<n>", help="times of each part; the medians are printed")] = 10,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16")] = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="compile the U-Net, for GPUs")] = False,
    format: Annotated[
        str | None, typer.Option(metavar="<name>", help="table, md, csv, json, parquet, latex or html, on stdout")
    ] = None,
) -> None:
    """Print how fast a model's networks are, beside the peaks of this machine.

    The peaks are those of a large matrix product and of a 3 × 3 convolution in PyTorch. All parts are timed in turn, so
    that other work on the machine slows all of them. The first round is left out.
    """
    from rich.console import Console

    from sdlab.commands.speed import Setting, speed
    from sdlab.report.view import check_format, print_as

    form = check_format(format)
    table = speed(Setting(model, batch, rounds, device, dtype, compile), Console(stderr=True))
    print_as(form, table, Console(), "speed")
