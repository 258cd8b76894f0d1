"""Ctrl-C and a polite kill, kept from falling where something would be lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """SIGINT and SIGTERM as KeyboardInterrupt, put off inside `held()`.

    The exception can vanish where Python ignores what is raised (a destructor, a library's callback); `check()` raises
    it again.
    """

    def __init__(self) -> None:
        self._caught = False
        self._held = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come since the start."""
        if self._caught:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that is finished first."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.check()

    @contextmanager
    def listening(self) -> Iterator[Interrupts]:
        """A block in which the two signals come here; afterwards they go where they went before.

        Outside the main thread, where Python allows no handlers, signals are left alone.
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
