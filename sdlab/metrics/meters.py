"""Several metrics on the same images, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sdlab.metrics import lab
from sdlab.metrics.base import PICTURES, PROMPTS, Batch, Meter, Metric, Result, Run, Tools
from sdlab.metrics.features import REFERENCE_SEED

_BATCH = 64  # pictures per network pass


class Meters:
    """Loaded metrics that share networks and reference sets."""

    def __init__(self, metrics: Sequence[Metric], tools: Tools) -> None:
        """Load the metrics. Check them with `complaints` first.

        Raises:
            SdlabError: a file is damaged or has another format.
        """
        self._tools = tools
        self._open: dict[Metric, Meter] = {metric: metric.open(tools) for metric in metrics}

    def start(self, run: Run) -> Measurement:
        """Begin a cell."""
        return Measurement(self._open, run)

    def real(self, images: int) -> dict[str, Result]:
        """The picture metrics of the same number of real renders with captions: those of a perfect model.

        Empty unless the pictures have the size of the renders.
        """
        world = lab.world(self._tools.files)
        if self._tools.size != world.SIZE:
            return {}
        measured = {metric: meter for metric, meter in self._open.items() if metric.needs <= PICTURES | PROMPTS}
        generator = torch.Generator().manual_seed(REFERENCE_SEED + 1)
        truth = world.sample(images, generator)
        captions = world.describe(truth, generator)
        measurement = Measurement(measured, Run(images))
        for start in range(0, images, _BATCH):
            part = slice(start, start + _BATCH)
            pictures = world.render(truth[part]).to(self._tools.device)
            measurement.update(Batch(range(images)[part], pictures, captions[part]))
        return measurement.results()


class Measurement:
    """The metrics of one cell."""

    def __init__(self, meters: dict[Metric, Meter], run: Run) -> None:
        self._open = {metric: meter.start(run) for metric, meter in meters.items()}

    @torch.inference_mode()
    def update(self, batch: Batch) -> None:
        """Add some images. Every image of the cell is added once, in any order."""
        for part in batch.split(_BATCH):
            for accumulator in self._open.values():
                accumulator.update(part)

    @torch.inference_mode()
    def results(self) -> dict[str, Result]:
        """The results by metric name.

        Raises:
            SdlabError: a metric has no value for this cell.
        """
        return {metric.name: _with_error(metric, accumulator.result()) for metric, accumulator in self._open.items()}


def _with_error(metric: Metric, result: Result) -> Result:
    if result.per_image is None or result.stderr is None:
        return result
    return replace(result, stderr=metric.error(result.stderr, len(result.per_image)))
