"""`sdlab list WHAT`."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated

import typer

EXAMPLE = "sdlab list samplers"


class Listed(StrEnum):
    """The lists that `sdlab list` prints."""

    samplers = "samplers"
    grids = "grids"
    guidance = "guidance"
    metrics = "metrics"
    models = "models"


def command(what: Annotated[Listed, typer.Argument(help="what to list")]) -> None:
    """List what can be used in a sweep, one line each."""
    described = _described(what)
    column = max(len(name) for name, _ in described) + 2
    room = max(20, shutil.get_terminal_size().columns - column) if sys.stdout.isatty() else sys.maxsize
    for name, about in described:
        first, *rest = textwrap.wrap(about, room)
        print(f"{name:<{column}}{first}", *(" " * column + line for line in rest), sep="\n")


def _described(what: Listed) -> list[tuple[str, str]]:
    """Names and descriptions."""
    import samplers
    from sdlab import plugins
    from sdlab.backends.registry import names
    from sdlab.guidance import GUIDANCE
    from sdlab.metrics import METRICS

    plugins.discover()
    if what is Listed.metrics:
        return [(m.name, f"{m.label}, {m.better} is better: {m.about}") for m in METRICS.values()]
    if what is Listed.models:
        return list(names().items())
    registries: dict[Listed, Mapping[str, Callable[..., object]]]
    registries = {Listed.samplers: samplers.SAMPLERS, Listed.grids: samplers.GRIDS, Listed.guidance: GUIDANCE}
    return [(name, samplers.describe(entry)) for name, entry in sorted(registries[what].items())]
