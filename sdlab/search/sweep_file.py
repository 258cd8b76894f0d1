"""The sweep file of cells that were found, which `sdlab sweep` runs from any folder: every path in it is absolute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdlab import plugins
from sdlab.backends import registry as backends
from sdlab.sweep.cell import Cell, Choice
from sdlab.sweep.plan import Plan
from sdlab.system.toml import toml


def sweep_file(about: str, plan: Plan, cells: Sequence[Cell], prompts: Mapping[str, Any], folder: Path) -> str:
    """A sweep of these cells, on images that have not been drawn.

    Args:
        about: a comment at the top.
        plan: the plan of the second half of the images. The sweep has as many images as both halves, after them.
        cells: the cells of the sweep.
        prompts: the table `[prompts]` of the file that was read.
        folder: the folder of that file.
    """
    top: dict[str, Any] = {
        "name": plan.name,
        "model": _model(plan.source, folder),
        "images": 2 * plan.images,
        "seed": plan.seed + plan.images,
        "batch": plan.batch,
        "dtype": plan.dtype,
        "device": plan.device,
        "metrics": plan.metrics,
        "reference_steps": plan.reference_steps,
        **({"compile": True} if plan.compile else {}),
    }
    lines = [
        f"# {about}",
        "",
        *(f"{key} = {toml(value)}" for key, value in top.items()),
    ]
    if files := plan.metric_files.given:
        lines += ["", "[metric_files]", *(f"{key} = {toml(_absolute(path, folder))}" for key, path in files.items())]
    if prompts:
        lines += ["", "[prompts]", *(f"{key} = {toml(value)}" for key, value in _prompts(prompts, folder))]
    for cell in cells:
        lines += ["", "[[extra]]", *(f"{key} = {toml(value)}" for key, value in _cell(cell, folder))]
    return "\n".join([*lines, ""])


def _prompts(prompts: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Any]]:
    for key, value in prompts.items():
        yield key, _absolute(value, folder) if key == "file" else value


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
