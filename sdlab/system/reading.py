"""Reading of files from users: those of a folder, and text and TOML from regular files of a limited size."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdlab.system.errors import UsageError
from sdlab.system.files import reason

_LARGEST = 64 * 2**20  # bytes


def check_regular(path: Path) -> None:
    """Check that a file can be read to its end. Pipes and devices may have none.

    Raises:
        UsageError: it is missing, or is a folder, a pipe or a device.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"{path}: {reason(error)}") from None
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path}: is a directory")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path}: is not a regular file")


def files_in(folder: Path) -> Iterator[Path]:
    """The files in a folder and its subfolders, also in those that a link leads to. Each folder is listed once.

    Hidden files and folders are skipped. macOS and Jupyter keep copies in them that are not part of a data set. A
    folder that is missing has no files.

    Raises:
        UsageError: a folder cannot be read.
    """
    seen = set(Path(os.path.realpath(folder)).parents)  # to which a link leads in a circle
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = Path(os.path.realpath(place))
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in files if not name.startswith("."))


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise UsageError(f"{error.filename}: {reason(error)}")


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        UsageError: it is missing, cannot be read, is not a regular file, or is larger than 64 MiB.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{path}: {reason(error)}") from None
    if len(content) > _LARGEST:
        raise UsageError(f"{path}: is larger than {_LARGEST // 2**20} MiB, the most that is read")
    return content


def read_text(path: Path) -> str:
    r"""The text in a file, with lines that end in `\n` and without a byte order mark.

    Raises:
        UsageError: as for `read_bytes`, or it is not UTF-8 text.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # also in UTF-16, as some editors save it
        raise UsageError(f"{path}: is not UTF-8 text; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables in a TOML file.

    Raises:
        UsageError: as for `read_text`, or it is not TOML.
    """
    text = read_text(path)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"{path}: is not TOML: its lists or tables are nested too deeply") from None
    except ValueError as error:  # also for numbers with thousands of digits
        raise UsageError(f"{path}: is not TOML: {error}") from None
