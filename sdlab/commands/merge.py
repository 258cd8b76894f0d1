"""`sdlab merge RUN…`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdlab.commands.paths import path_argument, path_option

EXAMPLE = "sdlab merge runs/cfg_vs_steps-*-of-4"


def command(
    runs: Annotated[list[Path], path_argument("run directories of the shards")],
    out: Annotated[Path, path_option("folder for the merged run directory")] = Path("runs"),
) -> None:
    """Join the shards of a sweep (`sdlab sweep FILE --shard i/n`) in one run directory, then draw its report.

    The shards are not changed. The command can be repeated when more of them are there. It ends with status 1 while
    cells are missing or failed.
    """
    from rich.console import Console

    from sdlab.report.run_report import report
    from sdlab.sweep.merge import merge
    from sdlab.system.console import line

    console = Console()
    merged = merge(runs, out)
    for note in merged.notes:
        line(console, f"note: {note}")
    report(merged.directory, console)
    text = f"{merged.done} of {merged.total} cells are in {merged.directory}"
    if merged.status:
        missing = merged.total - merged.done - merged.failed
        text += f"; {missing} missing, {merged.failed} failed. Merge more shards, or run sdlab sweep for the rest"
    line(console, text)
    raise typer.Exit(merged.status)
