"""`sdlab new sampler NAME` and `sdlab new recipe NAME --data DIR`."""

from __future__ import annotations

import keyword
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sdlab.commands.paths import path_option
from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import reason
from sdlab.system.output import say

EXAMPLE = "sdlab new sampler my_sampler"
_SKELETON = Path(__file__).with_name("new_sampler.py.txt")


class Kind(StrEnum):
    """The kinds of file that `sdlab new` writes."""

    sampler = "sampler"
    recipe = "recipe"


def command(
    kind: Annotated[Kind, typer.Argument(help="what to write")],
    name: Annotated[str, typer.Argument(help="name of the sampler or recipe, and of its file")],
    data: Annotated[
        str | None,
        typer.Option(metavar="<path>", help="captioned pictures for the recipe: a folder, or tar shards"),
    ] = None,
    out: Annotated[Path, path_option("folder for the file")] = Path(),
) -> None:
    """Write a commented sampler to start from, or a training recipe that fits your captioned pictures."""
    if kind is Kind.sampler:
        if data is not None:
            raise UsageError("sdlab new sampler: `--data` is for recipes; remove it")
        say(new_sampler(name, out))
        return
    if data is None:
        raise UsageError("sdlab new recipe: `--data` is missing; give a folder of pictures with captions")
    from sdlab.train.new_recipe.write import new_recipe

    path, estimate = new_recipe(name, data, out)
    say(path)
    say(f"estimate on this machine: {estimate}; to start: sdlab train {path}")


def new_sampler(name: str, folder: Path) -> Path:
    """Write `name`.py into `folder`, with a class in CamelCase. An existing file is never replaced.

    Raises:
        UsageError: the name is not a valid Python identifier, or the file exists.
        RunError: the file cannot be written.
    """
    stem = re.sub(r"[-\s]+", "_", name.removesuffix(".py")).lower()
    if not stem.isascii() or not stem.isidentifier() or keyword.iskeyword(stem):
        requirement = "a sampler's name must consist of letters, digits and _, and must not start with a digit"
        raise UsageError(f"{requirement}; got {name!r}")
    kind = "".join(part.capitalize() for part in stem.split("_"))
    path = folder / f"{stem}.py"
    text = _SKELETON.read_text(encoding="utf-8").replace("MySampler", kind).replace("my_sampler", stem)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} already exists and was not changed; choose another name") from None
    except OSError as error:
        raise RunError(f"cannot write {path}: {reason(error)}") from None
    return path
