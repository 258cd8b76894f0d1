"""Options and arguments for paths. They expand `~` and reject paths that no file can have."""

from __future__ import annotations

from typing import Any

import typer

from sdlab.system.paths import user_path


def path_option(about: str) -> Any:
    """An option with a path. `about` is its help text."""
    return typer.Option(parser=user_path, metavar="<path>", help=about)


def path_argument(about: str) -> Any:
    """An argument with a path. `about` is its help text."""
    return typer.Argument(parser=user_path, help=about)
