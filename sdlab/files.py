"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdlab.errors import RunError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to; what is there takes the place of `path` when the block ends well, and goes when it does not.

    Raises:
        RunError: the disk is full, or the folder cannot be written to.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {reason(error)}") from error
    finally:
        draft.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """The error in the words of the operating system, in lower case: `"no space left on device"`."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
