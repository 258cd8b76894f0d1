"""The memory allocator of the C library, where it is glibc's."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt(3)
_USUAL = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}  # what glibc arrives at by itself
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}
_lock, _inside = Lock(), [0]


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep memory that is freed inside the block for later allocations there. At the end it goes back to the system.

    By itself glibc returns each piece of more than 32 MiB as soon as it is freed. Each operation on a large picture
    then begins with new pages, which the system has to clear: 720,000 in decoding a picture of 512 × 512, and 130,000
    with this. Nothing changes with another C library. Blocks of several threads may overlap.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    _enter(libc, 1)
    try:
        yield
    finally:
        _enter(libc, -1)


def _enter(libc: ctypes.CDLL, change: int) -> None:
    with _lock:
        before, _inside[0] = _inside[0], _inside[0] + change
        if bool(before) is bool(_inside[0]):
            return
        for option, value in (_KEEPING if _inside[0] else _USUAL).items():
            libc.mallopt(option, value)
        if not _inside[0]:
            libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (other C libraries do not have it)
    except (OSError, AttributeError, TypeError):
        return None
    return libc
