"""`sdlab new sampler NAME`."""

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


def command(
    kind: Annotated[Kind, typer.Argument(help="what to write")],
    name: Annotated[str, typer.Argument(help="name of the sampler and of its file")],
    out: Annotated[Path, path_option("folder for the file")] = Path(),
) -> None:
    """Write a commented sampler to start from."""
    say(new_sampler(name, out))


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
