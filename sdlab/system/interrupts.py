"""Deferred interrupts: Ctrl-C and SIGTERM wait while results are being written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
            raise KeyboardInterrupt
