"""`sdlab new sampler NAME`: a sampler to start from, in one commented file that runs."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import reason

_SKELETON = Path(__file__).with_name("new_sampler.py.txt")


def new_sampler(name: str, folder: Path) -> Path:
    """Write `name`.py into `folder`, with a class in CamelCase; a file that is there is never replaced.

    Raises:
        UsageError: the name is no word that Python allows, or the file is there already.
        RunError: it cannot be written.
    """
    stem = re.sub(r"[-\s]+", "_", name.removesuffix(".py")).lower()
    if not stem.isascii() or not stem.isidentifier() or keyword.iskeyword(stem):
        raise UsageError(f"a sampler's name should be letters, digits and _, not beginning with a digit, got {name!r}")
    kind = "".join(part.capitalize() for part in stem.split("_"))
    path = folder / f"{stem}.py"
    text = _SKELETON.read_text(encoding="utf-8").replace("MySampler", kind).replace("my_sampler", stem)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path}: is there already, and is left as it is; choose another name") from None
    except OSError as error:
        raise RunError(f"cannot write {path}: {reason(error)}") from None
    return path
