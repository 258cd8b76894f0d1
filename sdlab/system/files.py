"""Atomic file writes and new folders."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import get_ident

from sdlab.system.errors import RunError

_drafts = count()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file. Yields a draft to write, which becomes `path` if the block succeeds and is deleted if it fails.

    Raises:
        RunError: the disk is full, the folder is not writable, or `path` is a folder or a device.
    """
    _check_replaceable(path)
    with _draft(path) as draft:
        yield draft
        draft.replace(path)


def add(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a new file at `path` or, if that name is taken, at name-2, name-3, … Returns its path.

    No file is overwritten, even if several processes add files to the folder concurrently.

    Raises:
        RunError: the disk is full, or the folder is not writable.
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


def check_writable(path: Path) -> None:
    """Check, before long work, that a file can be written at `path`.

    Raises:
        RunError: the folder is missing or not writable, the disk is full, or `path` is a folder or a device.
    """
    _check_replaceable(path)
    with _draft(path) as draft:
        draft.touch()


def make_folder(path: Path) -> None:
    """Make the folder and its parents, unless they exist.

    Raises:
        RunError: the folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {path}: {reason(error)}") from None


def _check_replaceable(path: Path) -> None:
    """Check that a file would replace nothing but a file. A user with all rights could replace a device like /dev/full.

    Raises:
        RunError: `path` is a folder or a device.
    """
    if os.path.isdir(path):  # noqa: PTH112  (pathlib raises if the name is too long)
        raise RunError(f"cannot write {path}: it is a folder")
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
        raise RunError(f"cannot write {path}: it is not a regular file")


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    # The name of the draft is short, because that of the file may be as long as the system allows.
    draft = path.with_name(f".{os.getpid()}.{get_ident()}.{next(_drafts)}.tmp")
    try:
        yield draft
    except OSError as error:
        raise RunError(f"cannot write {path}: {reason(error)}") from error
    finally:
        with suppress(OSError):  # which would hide the error above
            draft.unlink()


def append(path: Path, text: str) -> None:
    """Add text to the end of a log.

    Raises:
        OSError: the log is a link, or cannot be written.
    """
    descriptor = open_own(path, os.O_WRONLY | os.O_APPEND)
    with os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace") as log:
        log.write(text)


def open_own(path: Path, flags: int) -> int:
    """Open a file that belongs to sdlab for writing, and create it if it is missing. Returns its descriptor.

    A link is not followed, so that no other file of the user is written.

    Raises:
        OSError: the file is a link, or cannot be opened.
    """
    try:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OSError(error.errno, f"{path.name} is a link; remove it") from None
        raise


def file_digest(path: Path) -> bytes:
    """The SHA-256 of a file's content.

    Raises:
        RunError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise RunError(f"cannot read {path}: {reason(error)}") from None


def file_words(text: str, most: int) -> str:
    """The letters and digits of a text as a part of a file name of at most `most` bytes, with - for everything else."""
    words = re.sub(r"[^\w.=]+", "-", text)
    encoding = sys.getfilesystemencoding()
    return words.encode(encoding, "ignore")[:most].decode(encoding, "ignore").strip("-.")


def reason(error: OSError) -> str:
    """The message of the operating system, in lower case: `"no space left on device"`."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
