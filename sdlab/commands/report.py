"""`sdlab report DIRECTORY`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from sdlab.commands.paths import path_argument

EXAMPLE = "sdlab report runs/cfg_vs_steps"


def command(directory: Annotated[Path, path_argument("a run directory")]) -> None:
    """Draw the table, contact sheet and plots of a run again."""
    from rich.console import Console

    from sdlab.report.run_report import report

    report(directory, Console())
