"""The sweep file of a front, which `sdlab sweep` runs from any folder: every path in it is absolute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sdlab import plugins
from sdlab.backends import registry as backends
from sdlab.search.document import SearchPlan
from sdlab.sweep.cell import Cell, Choice
from sdlab.system.toml import toml


def sweep_file(search: SearchPlan, cells: Sequence[Cell]) -> str:
    """A sweep of these cells by all metrics, on images that the search has not drawn."""
    plan, images, folder = search.second, 2 * search.second.images, search.file.resolve().parent
    top: dict[str, Any] = {
        "name": plan.name,
        "model": _model(plan.source, folder),
        "images": images,
        "seed": search.first.seed + images,
        "batch": plan.batch,
        "dtype": plan.dtype,
        "device": plan.device,
        "metrics": plan.metrics,
        "reference_steps": plan.reference_steps,
        **({"compile": True} if plan.compile else {}),
    }
    lines = [
        f"# The Pareto front that sdlab search found with {search.file.name}, on seeds that the search did not use.",
        "",
        *(f"{key} = {toml(value)}" for key, value in top.items()),
    ]
    if files := plan.metric_files.given:
        lines += ["", "[metric_files]", *(f"{key} = {toml(_absolute(path, folder))}" for key, path in files.items())]
    if search.prompts:
        lines += ["", "[prompts]", *(f"{key} = {toml(value)}" for key, value in _prompts(search))]
    for cell in cells:
        lines += ["", "[[extra]]", *(f"{key} = {toml(value)}" for key, value in _cell(cell, folder))]
    return "\n".join([*lines, ""])


def _prompts(search: SearchPlan) -> Iterator[tuple[str, Any]]:
    for key, value in search.prompts.items():
        yield key, _absolute(value, search.file.resolve().parent) if key == "file" else value


def _cell(cell: Cell, folder: Path) -> Iterator[tuple[str, Any]]:
    for axis, choice in (("sampler", cell.sampler), ("grid", cell.grid), ("guidance", cell.guidance)):
        yield axis, _choice(choice, folder)
    yield ("steps", cell.steps) if cell.budget is None else ("passes", cell.budget)


def _choice(choice: Choice, folder: Path) -> Any:
    name = _entry(choice.name, folder)
    return {"name": name, **choice.options} if choice.options else name


def _model(source: Choice, folder: Path) -> Any:
    kind, _, path = source.name.partition(":")
    if plugins.is_path(source.name):
        name = _entry(source.name, folder)
    elif source.name in backends.names():
        name = source.name
    else:
        name = f"{kind}:{_absolute(path, folder)}" if kind in backends.BACKENDS else _absolute(source.name, folder)
    options = {key: _absolute(one, folder) if isinstance(one, str) else one for key, one in source.options.items()}
    return {"name": name, **options} if options else name


def _entry(name: str, folder: Path) -> str:
    """A custom entry with the place of its file, which is beside the search file or in the current folder."""
    if not plugins.is_path(name):
        return name
    file, colon, attribute = name.partition(":")
    beside = folder / file
    return f"{(beside if beside.is_file() else Path(file)).resolve()}{colon}{attribute}"


def _absolute(text: str, folder: Path) -> str:
    """The absolute path of a file in `folder`, or else in the current one; other text as it is."""
    found = [path for path in (folder / text, Path(text)) if path.exists()]
    return str(found[0].resolve()) if found else text
