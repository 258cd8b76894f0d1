"""Paths from users."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from sdlab.system.errors import UsageError
from sdlab.system.text import shown

_SHOWN = 60  # characters of a path that is too long


def user_path(text: str | Path) -> Path:
    """A path as a user writes it, with `~` expanded. It need not exist.

    Raises:
        UsageError: no file can have this path, because it is empty, is too long, contains NUL or names an unknown
            user.
    """
    if fault := path_fault(text):
        raise UsageError(fault)
    return Path(text).expanduser()


def path_fault(text: str | Path) -> str:
    """Why no file can have this path, or an empty string."""
    if not str(text).strip():
        return "the path is empty; write . for the current folder"
    name = shown(text)
    name = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    try:
        os.lstat(Path(text).expanduser())
    except RuntimeError:
        return f"{name}: there is no such user; write the folder itself"
    except UnicodeEncodeError:
        return f"{name}: the file system of this machine cannot encode this path"
    except ValueError:
        return f"{name}: a path cannot contain NUL"
    except OSError as error:
        return f"{name}: the path is too long" if error.errno == errno.ENAMETOOLONG else ""
    return ""
