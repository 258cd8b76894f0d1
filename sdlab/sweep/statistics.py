"""Model statistics in a plan: the files that its samplers read, and whether they are of its model and its guidance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from samplers.model_statistics import ModelStatistics
from sdlab.backends.base import Opened
from sdlab.plugins import Boundary, CodeError
from sdlab.sweep.axes import GUIDANCE, SAMPLER
from sdlab.sweep.cell import Cell, Choice, canonical
from sdlab.sweep.plan import Plan
from sdlab.system.files import file_digest

OPTION = "statistics"  # of a sampler: the file


def files(plan: Plan) -> list[Path]:
    """The files of statistics that the samplers of a plan read."""
    return list(dict.fromkeys(Path(file).expanduser() for file in map(_file, plan.cells) if file))


def of_model(opened: Opened) -> dict[str, str]:
    """The model that statistics are of, by name and by content.

    Raises:
        RunError: a file of the model cannot be read.
    """
    content = hashlib.sha256(canonical(opened.identity).encode())
    for path in opened.files:
        content.update(file_digest(path))
    return {"model": opened.label, "content": content.hexdigest()[:16]}


def of_guidance(strategy: Choice) -> dict[str, str]:
    """The guidance that statistics are of, by name and with all options."""
    return {"guidance": strategy.label, "strategy": canonical(strategy.complete(GUIDANCE))}


def misfits(plan: Plan) -> Iterator[str]:
    """One line for each file of statistics that is of another model, or of another guidance than a cell with it.

    Raises:
        RunError: a file of the model cannot be read.
    """
    known = [(cell, statistics) for cell in plan.cells if (statistics := _known(cell)) is not None]
    model = of_model(plan.opened) if known else {}
    lines = dict[str, None]()
    for cell, statistics in known:
        for kind, here in (("model", model), ("guidance", of_guidance(cell.guidance))):
            if why := _difference(kind, statistics.origin, here):
                lines[f"sampler: {cell.sampler.name}: {_file(cell)} {why}"] = None
                break
    yield from lines


def _difference(kind: str, there: dict[str, str], here: dict[str, str]) -> str:
    if all(there.get(key) == value for key, value in here.items()):
        return ""
    one, other = there.get(kind, "unknown"), here[kind]
    named = f"{kind} {one}, not of {other}" if one != other else f"another {kind} of the name {one}"
    return f"has the statistics of {named}; measure those with sdlab statistics"


def _file(cell: Cell) -> str:
    file = cell.sampler.options.get(OPTION, "")
    known = cell.sampler.name in SAMPLER.known and OPTION in SAMPLER.parameters(cell.sampler.name)
    return file if known and isinstance(file, str) else ""


def _known(cell: Cell) -> ModelStatistics | None:
    """The statistics of a cell's sampler, None without any. A sampler that cannot be built fails in its cell."""
    if not _file(cell):
        return None
    try:
        with Boundary().crossed():
            known: ModelStatistics | None = SAMPLER.build(cell.sampler.name, **cell.sampler.options).known()
            return known
    except CodeError:
        return None
