"""`sdlab certify [NAME…]` and `sdlab certify guidance [NAME…]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sdlab.commands.paths import path_option
from sdlab.system.errors import UsageError

EXAMPLE = "sdlab certify dpmpp_2m my_sampler.py:MySampler"
_GUIDANCE = "guidance"  # as the first name: the others are strategies


def command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="samplers, or `guidance` and then strategies, by name or as file.py:Class; default: all samplers"
        ),
    ] = None,
    out: Annotated[Path, path_option("folder for certificates.json and certificates.png, or guidance.json")] = Path(
        "out/certify"
    ),
    page: Annotated[
        Path | None,
        path_option("also write a page like docs/samplers.md to this path"),
    ] = None,
) -> None:
    """Certify samplers or guidance strategies against exact solutions.

    Checks a sampler's claimed order, number of denoiser calls and memory. Checks that a strategy's neutral setting is
    the plain model, that its predictions differ, its passes, its state and, if it is affine, the law of its samples.
    """
    from rich.console import Console

    from sdlab.certify.run import run
    from sdlab.certify.strategies.run import run as run_guidance

    console = Console(width=None if sys.stdout.isatty() else 140)  # files and pipes have no width
    if not names or names[0] != _GUIDANCE:
        raise typer.Exit(run(names or [], out, console, page))
    if page is not None:
        raise UsageError("--page is the page on samplers; leave it out for guidance")
    raise typer.Exit(run_guidance(names[1:], out, console))
