"""Progress bars, one for the sweep and one for the cell, each with the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import isnan
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from sdlab.system.text import shown


class SweepProgress:
    """Two bars while the block runs, and one line per finished cell, which is also written to a log file.

    The time left is estimated from the remaining network passes and the speed so far.
    """

    def __init__(self, console: Console, passes: Sequence[float], what: str = "cell") -> None:
        """`passes` are the network passes per image of each cell, NaN for one that cannot run. `what` counts them."""
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}", style="cyan"),
            console=console,
            transient=True,
        )
        # Even without any step, pictures are decoded. A cell that cannot run takes no time.
        self._passes = [1.0 if isnan(cell) else max(1.0, cell) for cell in passes]
        self._total, self._what = sum(self._passes), what
        self._done = 0.0  # passes of the cells that have ended
        self._started = self._finished = 0
        self._begun: dict[str, int] = {}  # by key, the place of each cell in `passes`
        self._running: dict[str, float] = {}  # by key, the share of each cell that is done
        self._start = self._cell_start = time.monotonic()
        self._sweep = self._bars.add_task("sweep", total=self._total, left="")
        self._cell = self._bars.add_task("", total=1.0, left="", visible=False)

    def __enter__(self) -> SweepProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, label: str, key: str = "") -> None:
        """Start the next cell, or one that has begun before. With several at once, each needs a key of its own."""
        if not self._begun:
            self._start = time.monotonic()  # excludes loading, which happens once
        if not key or key not in self._begun:
            self._begun[key] = self._started
            self._started += 1
        self._running[key] = 0.0
        self._cell_start = time.monotonic()
        label = shown(label) if len(self._running) == 1 else f"{len(self._running)} cells at once"
        self._bars.update(self._cell, description=label, completed=0.0, left="", visible=True)
        number = self._finished + len(self._running)
        self._bars.update(self._sweep, description=f"{self._what} {number} of {len(self._passes)}")

    def update(self, share: float, key: str = "") -> None:
        """Show that a share in [0, 1] of a cell is done."""
        now = time.monotonic()
        self._running[key] = share
        done = self._done + sum(part * self._passes[self._begun[one]] for one, part in self._running.items())
        whole = sum(self._running.values()) / len(self._running)
        left = _left(now - self._cell_start, share) if len(self._running) == 1 else ""
        self._bars.update(self._cell, completed=whole, left=left)
        self._bars.update(self._sweep, completed=done, left=_left(now - self._start, done / self._total))

    def done(self, key: str = "") -> None:
        """Finish a cell without a line."""
        self.update(1.0, key)
        del self._running[key]
        self._done += self._passes[self._begun[key]]
        self._finished += 1

    def end(self, text: str, *, failed: bool = False, aside: str = "", key: str = "") -> None:
        """Finish a cell with one line about its outcome, followed by less important details."""
        self.done(key)
        number = Text(f"{self._finished:>3}/{len(self._passes)} ", "dim")
        outcome = Text(shown(text), "red" if failed else "")
        self._bars.console.print(number + outcome + Text(aside and f"  {aside}", "dim"))


def _left(elapsed: float, share: float) -> str:
    return f"{duration(elapsed / share - elapsed)} left" if share > 0 else ""


def duration(seconds: float) -> str:
    """`"45 s"`, `"3 min 20 s"`, `"2 h 05 min"`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
