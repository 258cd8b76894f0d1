"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import get_ident

from sdlab.system.errors import RunError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to; what is there takes the place of `path` when the block ends well, and goes when it does not.

    Raises:
        RunError: the disk is full, or the folder cannot be written to.
    """
    with _draft(path) as draft:
        yield draft
        draft.replace(path)


def add(path: Path, write: Callable[[Path], object]) -> Path:
    """Have a file written under this name or, where it is taken, name-2, name-3, …; the path it got.

    Nothing is overwritten, whoever else adds files there at the same time.

    Raises:
        RunError: as `replacing`.
    """
    with _draft(path) as draft:
        write(draft)
        for copy in count(1):
            free = path if copy == 1 else path.with_stem(f"{path.stem}-{copy}")
            try:
                free.touch(exist_ok=False)
            except FileExistsError:
                continue
            break
        draft.replace(free)
        return free


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{get_ident()}.tmp")
    try:
        yield draft
    except OSError as error:
        raise RunError(f"cannot write {path}: {reason(error)}") from error
    finally:
        draft.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """The error in the words of the operating system, in lower case: `"no space left on device"`."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
