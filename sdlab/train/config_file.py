"""Training files: TOML read into the configurations of stages, with all mistakes reported together."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from sdlab.system.errors import UsageError
from sdlab.system.reading import read_toml
from sdlab.system.resources import find
from sdlab.train.config import Training
from sdlab.train.mistakes import sentence
from sdlab.train.recipe import Part, is_recipe, parts_of
from sdlab.train.stages import STAGES


def load_recipe(path: Path) -> list[Part]:
    """The stages of a recipe, in order.

    Raises:
        UsageError: the file cannot be read or is not a recipe, or keys or values are invalid. The message has one line
            per mistake.
    """
    path = find(path)
    table = read_toml(path)
    if not is_recipe(table):
        raise UsageError(f"{path}: is not a recipe; add a table such as [vae], or name the stage before the file")
    return parts_of(path, table)


def load_part(name: str, path: Path) -> Part:
    """One stage of a recipe, or the stage `name` as a file without tables of stages configures it.

    Raises:
        UsageError: the stage is unknown, the file cannot be read, or keys or values are invalid. The message has
            one line per mistake.
    """
    if not (find(path).is_file() and is_recipe(read_toml(find(path)))):
        return Part(name, load_config(name, path), None)
    parts = {part.name: part for part in load_recipe(path)}
    if name not in parts:
        from samplers.checks import unknown  # imports torch, so only when it is needed

        raise UsageError(f"{path}: {unknown('stage', name, parts)}")
    return parts[name]


def load_config(stage: str, path: Path) -> Training:
    """The configuration of a run of `stage` in a file of its own.

    Raises:
        UsageError: the stage is unknown, the file cannot be read, or keys or values are invalid. The message has
            one line per mistake.
    """
    if (kind := STAGES.get(stage)) is None:
        from samplers.checks import unknown  # imports torch, so only when it is needed

        raise UsageError(unknown("stage", stage, STAGES))
    path = find(path)
    table = read_toml(path)
    try:
        return kind(**table)
    except ValidationError as error:
        raise UsageError(*(f"{path}: {sentence(kind, e)}" for e in error.errors())) from None
