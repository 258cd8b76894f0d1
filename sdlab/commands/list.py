"""`sdlab list WHAT [NAME]`."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import shutil
import sys
import textwrap
from enum import StrEnum
from typing import Annotated

import typer

from sdlab.commands.source import Definition, entries
from sdlab.system.output import say
from sdlab.system.text import shown

EXAMPLE = "sdlab list guidance cfg"


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


def command(
    what: Annotated[Listed, typer.Argument(help="what to list")],
    name: Annotated[str | None, typer.Argument(help="a sampler, grid or guidance strategy to describe")] = None,
) -> None:
    """List what can be used in a sweep, one line each. With a name, show its description, options and source."""
    if name is not None:
        for line in _details(what, name):
            say(line)
        return
    described = [(shown(name), shown(about)) for name, about in _described(what)]
    column = max(len(name) for name, _ in described) + 2
    room = max(20, shutil.get_terminal_size().columns - column) if sys.stdout.isatty() else sys.maxsize
    for name, about in described:
        first, *rest = textwrap.wrap(about, room) or [""]  # custom code may have no docstring
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


def _details(what: Listed, name: str) -> list[str]:
    """The docstring of one entry, its options with their defaults, and its source file.

    Raises:
        UsageError: the name is unknown, or `what` has no options.
    """
    from samplers.checks import unknown
    from sdlab import plugins
    from sdlab.sweep.axes import GRID, GUIDANCE, SAMPLER
    from sdlab.system.errors import UsageError

    registry = {Listed.samplers: SAMPLER, Listed.grids: GRID, Listed.guidance: GUIDANCE}.get(what)
    if registry is None:
        raise UsageError(f"sdlab list {what}: takes no name; {what} have no options to show")
    plugins.discover()
    if plugins.is_path(name):
        plugins.add(registry.kind, name)
    if name not in registry.known:
        raise UsageError(unknown(registry.kind, name, registry.known))
    entry = registry.known[name]
    options = [f"    {key} = {_written(one.default)}" for key, one in registry.parameters(name).items()]
    source = inspect.getsourcefile(entry) or ""
    folders = [place for place in sys.path if place and source.startswith(f"{place}{os.sep}")]
    relative = os.path.relpath(source, max(folders, key=len)) if folders else source
    about = (inspect.getdoc(entry) or "").splitlines()
    return [shown(line) for line in (*about, "", "Options:", *(options or ["    none"]), "", f"Source: {relative}")]


def _written(default: object) -> str:
    """A default as it is written on the command line."""
    if default is inspect.Parameter.empty:
        return "required"
    return "not used" if default is None else json.dumps(default).replace("Infinity", "inf")


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
