"""Locks on run directories: one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdlab.system.errors import RunError
from sdlab.system.files import make_folder, reason


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make the directory and lock it for the block. The system frees the lock however the process ends.

    Raises:
        RunError: another process has the lock (the message gives its id), or the directory cannot be made.
    """
    make_folder(directory)
    try:
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunError(f"cannot write to the run directory {directory}: {reason(error)}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            process = f"process {holder}" if holder else "another process"
            raise RunError(f"run directory {directory} is in use by {process}") from None
        try:
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise RunError(f"cannot write to the run directory {directory}: {reason(error)}") from None
        yield
    finally:
        os.close(descriptor)
