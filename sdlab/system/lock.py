"""One process at a time in a run directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdlab.system.errors import RunError
from sdlab.system.files import reason


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make the directory, and hold it; the system lets go of it when the process ends, however it ends.

    Raises:
        RunError: another process holds it (the message has its number), or it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunError(f"cannot make the run directory {directory}: {reason(error)}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "that has not told its number"
            raise RunError(f"run directory {directory} is in use by process {holder}") from None
        try:
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise RunError(f"cannot write in the run directory {directory}: {reason(error)}") from None
        yield
    finally:
        os.close(descriptor)
