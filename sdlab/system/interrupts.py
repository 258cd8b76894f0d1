"""Interrupts: Ctrl-C and SIGTERM, which wait while results are being written."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

STATUS = 130  # the exit status after an interrupt
_folders: list[TemporaryDirectory[str]] = []  # those of `temporary_folder` that exist


def handle_ctrl_c() -> None:
    """Raise KeyboardInterrupt at Ctrl-C as Python does, except during an import, where Ctrl-C ends the process at once.

    Modules that are interrupted while they are imported print tracebacks, or turn the interrupt into another error.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as under nohup
        signal.signal(signal.SIGINT, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            for folder in _folders:
                folder.cleanup()
            os._exit(STATUS)
        frame = frame.f_back
    raise KeyboardInterrupt


@contextmanager
def ctrl_c_blocked() -> Iterator[None]:
    """Block Ctrl-C in this process inside the block, and in processes that it starts for good.

    Ctrl-C reaches all processes of a terminal. It is left to this process, which then ends those that it has started
    with SIGTERM. SIGTERM is therefore not blocked.
    """
    from multiprocessing import resource_tracker  # slow to import

    resource_tracker.ensure_running()  # whose start would unblock it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Interrupts:
    """SIGINT and SIGTERM as KeyboardInterrupt, deferred inside `held()`.

    Python ignores exceptions raised in some places, such as destructors and callbacks of libraries. `check()` raises a
    KeyboardInterrupt that was lost there.
    """

    def __init__(self) -> None:
        self._caught = False
        self._held = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has arrived since the start."""
        if self._caught:
            raise KeyboardInterrupt

    def share(self, anyone: Callable[[bool], bool]) -> None:
        """Take over a signal that another process received; `anyone` tells whether any process has one."""
        self._caught = anyone(self._caught)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Defer signals until the end of the block."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.check()

    @contextmanager
    def listening(self) -> Iterator[Interrupts]:
        """Handle the two signals here during the block, then restore the previous handlers.

        Python allows no handlers outside the main thread. There, signals are handled as before.
        """
        try:
            before = {number: signal.signal(number, self._catch) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:
            before = {}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._caught = True
        if not self._held:
            _raise(number, frame)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A temporary folder that is removed at the end of the block, and also after Ctrl-C or SIGTERM.

    Raises:
        KeyboardInterrupt: one of the two signals has arrived.
        OSError: the folder cannot be made.
    """
    from tempfile import TemporaryDirectory  # slow to import

    with Interrupts().listening():
        folder = TemporaryDirectory(prefix="sdlab-")
        _folders.append(folder)
        try:
            with folder as name:
                yield Path(name)
        finally:
            _folders.remove(folder)
