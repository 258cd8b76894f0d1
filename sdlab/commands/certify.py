"""`sdlab certify [NAME…]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sdlab.commands.paths import path_option

EXAMPLE = "sdlab certify dpmpp_2m my_sampler.py:MySampler"


def command(
    names: Annotated[list[str] | None, typer.Argument(help="names of samplers, or file.py:Class; default: all")] = None,
    out: Annotated[Path, path_option("folder for certificates.json and certificates.png")] = Path("out/certify"),
    page: Annotated[
        Path | None,
        path_option("also write a page like docs/samplers.md to this path"),
    ] = None,
) -> None:
    """Certify samplers against exact solutions.

    Checks their claimed order, their number of denoiser calls and their memory.
    """
    from rich.console import Console

    from sdlab.certify.run import run

    width = None if sys.stdout.isatty() else 140  # files and pipes have no width
    raise typer.Exit(run(names or [], out, Console(width=width), page))
