"""The command line: `sdlab sweep | report | generate | show | train | export | certify | new | list`."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated

import typer

import sdlab
from sdlab import commands
from sdlab.system.errors import SdlabError, print_error

app = typer.Typer(
    name="sdlab",
    help="A research testbed for diffusion sampling: which sampler, how many steps, which guidance, on which grid, "
    "at what cost, and is the difference real?",
    epilog="Start with: sdlab sweep experiments/cfg_vs_steps.toml",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _name in commands.NAMES:
    _module = import_module(f"sdlab.commands.{_name}")
    app.command(_name, epilog=f"Example: {_module.EXAMPLE}")(_module.command)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"sdlab {sdlab.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """The options of `sdlab` itself; its help is that of the app."""


def main() -> None:
    """The entry point. Errors go to stderr; the exit status is theirs, or 130 after Ctrl-C."""
    try:
        app()
    except SdlabError as error:
        sys.exit(print_error(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
