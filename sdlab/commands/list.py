"""`sdlab list WHAT`."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
import textwrap
from enum import StrEnum
from typing import Annotated

import typer

from sdlab.commands.source import Definition, entries
from sdlab.system.output import say
from sdlab.system.text import shown

EXAMPLE = "sdlab list samplers"


class Listed(StrEnum):
    """The lists that `sdlab list` prints."""

    samplers = "samplers"
    grids = "grids"
    guidance = "guidance"
    metrics = "metrics"
    models = "models"


# The module and the name of each registry that is read from the source code.
_REGISTRIES = {
    Listed.samplers: ("samplers", "SAMPLERS"),
    Listed.grids: ("samplers.grids.registry", "GRIDS"),
    Listed.guidance: ("sdlab.guidance", "GUIDANCE"),
    Listed.metrics: ("sdlab.metrics", "METRICS"),
}


def command(what: Annotated[Listed, typer.Argument(help="what to list")]) -> None:
    """List what can be used in a sweep, one line each."""
    described = [(shown(name), shown(about)) for name, about in _described(what)]
    column = max(len(name) for name, _ in described) + 2
    room = max(20, shutil.get_terminal_size().columns - column) if sys.stdout.isatty() else sys.maxsize
    for name, about in described:
        first, *rest = textwrap.wrap(about, room)
        for line in (f"{name:<{column}}{first}", *(" " * column + line for line in rest)):
            say(line)


def _described(what: Listed) -> list[tuple[str, str]]:
    """Names and descriptions."""
    if what is Listed.models:
        from sdlab import plugins
        from sdlab.backends.registry import names

        plugins.discover()
        return list(names().items())
    built_in = entries(*_REGISTRIES[what])
    if what is Listed.metrics:
        return [(name, _metric(entry)) for name, entry in built_in.items()]
    return sorted([*((name, entry.first_line) for name, entry in built_in.items()), *_custom(what)])


def _metric(entry: Definition) -> str:
    return f"{entry.constant('label')}, {entry.constant('better')} is better: {entry.constant('about')}"


def _custom(what: Listed) -> list[tuple[str, str]]:
    """The entries of installed packages, and those added in this process. Only for these is anything imported."""
    if "sdlab.plugins" not in sys.modules and not importlib.metadata.entry_points(group=f"sdlab.{what}"):
        return []
    from samplers import describe
    from sdlab import plugins

    plugins.discover()
    kind = next(kind for kind, group in plugins.GROUPS.items() if group == f"sdlab.{what}")
    known = plugins.REGISTRIES[kind]
    return [(name, describe(known[name])) for name in known if plugins.is_custom(kind, name)]
