"""`sdlab report DIRECTORY`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "sdlab report runs/cfg_vs_steps"


def command(directory: Annotated[Path, typer.Argument(help="a run directory")]) -> None:
    """Draw the table, contact sheet and plots of a run again."""
    from rich.console import Console

    from sdlab.report.run_report import report

    report(directory, Console())
