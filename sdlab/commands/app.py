"""The command line: `sdlab sweep | report | compare | generate | …`; `sdlab.commands.NAMES` has all commands."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, cast

import typer

import sdlab
from sdlab import commands
from sdlab.system.errors import UsageError
from sdlab.system.limits import brief
from sdlab.system.text import encodable

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
    _module = import_module(f"sdlab.commands.{_name.replace('-', '_')}")
    app.command(_name, epilog=f"Example: {_module.EXAMPLE}")(_module.command)

# The parser's own errors. Typer has this class under other names in other versions.
ParserError = cast(type[Exception], typer.BadParameter.__bases__[0])
_WANTED = {"int_parsing": "a whole number", "int_parsing_size": "a smaller whole number", "float_parsing": "a number"}


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


def run(arguments: list[str]) -> int:
    """Run a command. Returns the exit status.

    Raises:
        UsageError: a command or an option is unknown, a value has the wrong type, or an argument is not UTF-8.
        SdlabError: from the command.
    """
    try:
        arguments = [encodable(argument) for argument in arguments]
    except ValueError as error:
        raise UsageError(str(error)) from None
    try:
        status = app(arguments or ["--help"], prog_name="sdlab", standalone_mode=False)
    except ParserError as error:
        raise UsageError(_sentence(error)) from None
    return int(status or 0)


def _sentence(error: Any) -> str:
    """`"sdlab generate: no such option: --stepps"`."""
    place = error.ctx.command_path if error.ctx else "sdlab"
    message = _of_value(error) or error.format_message().rstrip(".").replace("Value error, ", "")
    return f"{place}: {message[:1].lower()}{message[1:]}; see {place} --help"


def _of_value(error: Any) -> str:
    """`"--steps: must be a whole number, got 'ten'"`, or empty for an error of another kind."""
    from pydantic import ValidationError  # slow to import, so only when it is needed

    if not isinstance(cause := error.__cause__, ValidationError):
        return ""
    fault = cause.errors()[0]
    wanted = _WANTED.get(fault["type"])
    return f"{error.param.opts[-1]}: must be {wanted}, got {brief(fault['input'])}" if wanted else ""
