"""Locks on run directories: one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdlab.system.errors import RunError
from sdlab.system.files import make_folder, open_own, reason
from sdlab.system.output import remark

# The errors of file systems without locks, such as Lustre mounted without -o flock and some NFS and FUSE.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make the directory and lock it for the block. The system frees the lock however the process ends.

    On a file system without locks, the user is asked to take care instead.

    Raises:
        RunError: another process has the lock (the message gives its id), or the directory cannot be made or written.
    """
    make_folder(directory)
    path = directory / ".lock"
    try:
        descriptor = open_own(path, os.O_RDWR)
    except OSError as error:
        raise RunError(f"cannot write to the run directory {directory}: {reason(error)}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            process = f"process {holder}" if holder else "another process"
            raise RunError(f"run directory {directory} is in use by {process}") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise RunError(f"cannot lock the run directory {directory}: {reason(error)}") from None
            remark(f"note: the file system of {directory} has no locks; use it from one process at a time")
        try:
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise RunError(f"cannot write to the run directory {directory}: {reason(error)}") from None
        yield
    finally:
        os.close(descriptor)
