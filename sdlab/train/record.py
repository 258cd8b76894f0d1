"""What a run shows of itself: the loss log, loss curves, sheets of pictures and TensorBoard event files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from sdlab.system.errors import UsageError
from sdlab.system.files import make_folder, replacing
from sdlab.train.config import Training
from sdlab.train.log import LossLog
from sdlab.train.sheet import sheet

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_DRAW_EVERY = 10.0  # seconds, at least


class Record:
    """The record of one run in its folder, continued at step `start`.

    Raises:
        UsageError: TensorBoard is asked for and not installed.
        RunError: a file cannot be written.
    """

    def __init__(self, config: Training, start: int) -> None:
        make_folder(config.out)
        self._out, self._drawn = config.out, time.monotonic()
        self.log = LossLog(config.out / "log.csv", start)
        self._events = _event_files(config, start) if config.tensorboard else None

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of a step."""
        self.log.row(step, values)
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def pictures(self, step: int, pictures: Tensor) -> None:
        """Record pictures (rows, columns, 3, H, W) in [−1, 1] as `previews/STEP.png`."""
        page = sheet(pictures)
        make_folder(self._out / "previews")
        with replacing(self._out / "previews" / f"{step}.png") as draft:
            Image.fromarray(page.permute(1, 2, 0).numpy()).save(draft, format="png")
        if self._events is not None:
            self._events.add_image("preview", page, step)

    def draw(self) -> None:
        """Draw `losses.png`, unless it was drawn a moment ago."""
        if time.monotonic() - self._drawn > _DRAW_EVERY:
            self._draw()

    def close(self) -> None:
        """Draw the curves and close the event files."""
        self._draw()
        if self._events is not None:
            self._events.close()

    def _draw(self) -> None:
        from sdlab.train.loss_curves import draw_curves  # imports matplotlib

        if series := self.log.series():
            draw_curves(self._out / "losses.png", series)
        self._drawn = time.monotonic()


def _event_files(config: Training, start: int) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            "`tensorboard` needs a package that is not installed; run: pip install 'sdlab[tensorboard]'"
        ) from None
    return SummaryWriter(str(config.out / "tensorboard"), purge_step=start)
