"""`sdlab certify [NAME…]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "sdlab certify dpmpp_2m my_sampler.py:MySampler"


def command(
    names: Annotated[list[str] | None, typer.Argument(help="names of samplers, or file.py:Class; default: all")] = None,
    out: Annotated[Path, typer.Option(help="folder for certificates.json and certificates.png")] = Path("out/certify"),
    page: Annotated[Path | None, typer.Option(help="also write a page like docs/samplers.md to this path")] = None,
) -> None:
    """Check what samplers claim against exact solutions.

    The claims are the order, the number of calls and the memory.
    """
    from rich.console import Console

    from sdlab.certify.run import run

    width = None if sys.stdout.isatty() else 140  # a file or a pipe has no width of its own
    raise typer.Exit(run(names or [], out, Console(width=width), page))
