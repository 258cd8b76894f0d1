"""Interrupts: Ctrl-C and SIGTERM, which wait while results are being written."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 130  # the exit status after an interrupt


def handle_ctrl_c() -> None:
    """Raise KeyboardInterrupt at Ctrl-C as Python does, except during an import, where Ctrl-C ends the process at once.

    Modules that are interrupted while they are imported print tracebacks, or turn the interrupt into another error.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as under nohup
        signal.signal(signal.SIGINT, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(STATUS)
        frame = frame.f_back
    raise KeyboardInterrupt


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
