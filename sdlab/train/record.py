"""What a run shows of itself: the loss log, loss curves, sheets of pictures and experiment trackers."""

from __future__ import annotations

import time
from collections.abc import Mapping

from PIL import Image
from torch import Tensor

from sdlab.system.files import make_folder, replacing
from sdlab.trackers import Tracker, open_tracker
from sdlab.train import processes
from sdlab.train.config import Training
from sdlab.train.log import LossLog
from sdlab.train.sheet import sheet

_DRAW_EVERY = 10.0  # seconds, at least


class Record:
    """The record of one run in its folder, continued at step `start`. Processes other than the first write nothing.

    Raises:
        UsageError: a tracker is asked for and not installed, or does not start.
        RunError: a file cannot be written.
    """

    def __init__(self, config: Training, start: int) -> None:
        self._first = processes.rank() == 0
        make_folder(config.out)
        self._out, self._drawn = config.out, time.monotonic()
        self.log = LossLog(config.out / "log.csv", start, writes=self._first)
        self._trackers = _trackers(config, start) if self._first else []

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of a step."""
        self.log.row(step, values)
        for tracker in self._trackers:
            tracker.log(values, step)

    def pictures(self, step: int, pictures: Tensor) -> None:
        """Record pictures (rows, columns, 3, H, W) in [−1, 1] as `previews/STEP.png`."""
        if not self._first:
            return
        page = sheet(pictures)
        make_folder(self._out / "previews")
        with replacing(self._out / "previews" / f"{step}.png") as draft:
            Image.fromarray(page.permute(1, 2, 0).numpy()).save(draft, format="png")
        for tracker in self._trackers:
            tracker.picture("preview", page, step)

    def draw(self) -> None:
        """Draw `losses.png`, unless it was drawn a moment ago."""
        if time.monotonic() - self._drawn > _DRAW_EVERY:
            self._draw()

    def close(self) -> None:
        """Draw the curves and close the trackers."""
        self._draw()
        for tracker in self._trackers:
            tracker.close()

    def _draw(self) -> None:
        from sdlab.train.loss_curves import draw_curves  # imports matplotlib

        if self._first and (series := self.log.series()):
            draw_curves(self._out / "losses.png", series)
        self._drawn = time.monotonic()


def _trackers(config: Training, start: int) -> list[Tracker]:
    """The trackers of a run, whose files are in folders of their names."""
    settings = {key: str(value) for key, value in config if value is not None}
    return [
        open_tracker(name, "sdlab", config.out.name, config.out / name, settings, start) for name in config.trackers()
    ]
