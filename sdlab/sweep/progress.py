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
        self._done = 0.0
        self._index = -1
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

    def begin(self, label: str) -> None:
        """Start the next cell."""
        self._index += 1
        if self._index == 0:
            self._start = time.monotonic()  # excludes loading, which happens once
        self._cell_start = time.monotonic()
        self._bars.update(self._cell, description=shown(label), completed=0.0, left="", visible=True)
        self._bars.update(self._sweep, description=f"{self._what} {self._index + 1} of {len(self._passes)}")

    def update(self, share: float) -> None:
        """Show that a share in [0, 1] of the cell is done."""
        now = time.monotonic()
        done = self._done + share * self._passes[self._index]
        self._bars.update(self._cell, completed=share, left=_left(now - self._cell_start, share))
        self._bars.update(self._sweep, completed=done, left=_left(now - self._start, done / self._total))

    def done(self) -> None:
        """Finish the cell without a line."""
        self.update(1.0)
        self._done += self._passes[self._index]

    def end(self, text: str, *, failed: bool = False, aside: str = "") -> None:
        """Finish the cell with one line about its outcome, followed by less important details."""
        self.done()
        number = Text(f"{self._index + 1:>3}/{len(self._passes)} ", "dim")
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
