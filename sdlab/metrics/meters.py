"""Several metrics on the same images, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdlab.metrics.base import PICTURES, PROMPTS, Batch, Meter, Metric, Result, Run, Tools
from sdlab.metrics.features import REFERENCE_SEED
from sdlab.worlds import scenes

_BATCH = 64  # pictures that networks see at once


class Meters:
    """Loaded metrics that share networks and reference sets."""

    def __init__(self, metrics: Sequence[Metric], tools: Tools) -> None:
        """Load the metrics; `complaints` has found nothing wrong with them before.

        Raises:
            SdlabError: a file is damaged or of another form.
        """
        self._tools = tools
        self._open: dict[Metric, Meter] = {metric: metric.open(tools) for metric in metrics}

    def start(self, run: Run) -> Measurement:
        """Begin a cell."""
        return Measurement(self._open, run)

    def real(self, images: int) -> dict[str, Result]:
        """The metrics of pictures and prompts of as many real renders with captions: a perfect model's at this size.

        Empty for pictures of another size.
        """
        if self._tools.size != (scenes.PIXELS, scenes.PIXELS):
            return {}
        measured = {metric: meter for metric, meter in self._open.items() if metric.needs <= PICTURES | PROMPTS}
        generator = torch.Generator().manual_seed(REFERENCE_SEED + 1)
        world = scenes.sample(images, generator)
        captions = scenes.describe(world, generator)
        measurement = Measurement(measured, Run(images))
        for start in range(0, images, _BATCH):
            part = slice(start, start + _BATCH)
            pictures = scenes.render(world[part]).to(self._tools.device)
            measurement.update(Batch(range(images)[part], pictures, captions[part]))
        return measurement.results()


class Measurement:
    """The metrics of one cell."""

    def __init__(self, meters: dict[Metric, Meter], run: Run) -> None:
        self._open = {metric.name: meter.start(run) for metric, meter in meters.items()}

    @torch.inference_mode()
    def update(self, batch: Batch) -> None:
        """Add some images; every image of the cell comes once, in any order."""
        for part in batch.split(_BATCH):
            for accumulator in self._open.values():
                accumulator.update(part)

    @torch.inference_mode()
    def results(self) -> dict[str, Result]:
        """What was found, by the metric's name.

        Raises:
            SdlabError: a metric has no value for this cell.
        """
        return {name: accumulator.result() for name, accumulator in self._open.items()}
