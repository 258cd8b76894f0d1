"""Several metrics on the same images, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from sdlab.metrics import lab
from sdlab.metrics.base import PICTURES, PROMPTS, Batch, Meter, Metric, Result, Run, Tools, given
from sdlab.metrics.features import REFERENCE_SEED
from sdlab.metrics.pictures import pictures_in, read_pictures
from sdlab.metrics.reference import only_statistics

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
        """What the metrics of pictures are on real ones.

        With a folder of real pictures, these are the metrics that should be near them, over the whole folder. Without,
        they are all metrics of pictures and prompts, on the same number of real renders with captions: those of a
        perfect model. They are empty if the pictures have another size than the renders.
        """
        files = self._tools.files
        if files.reference is not None:
            return {} if only_statistics(files) else self._of_folder(Path(files.reference))
        world = lab.world(files)
        if self._tools.size != world.SIZE:
            return {}
        generator = torch.Generator().manual_seed(REFERENCE_SEED + 1)
        truth = world.sample(images, generator)
        captions = world.describe(truth, generator)
        measurement = self._measurement(images, lambda metric: metric.needs <= PICTURES | PROMPTS)
        for start in range(0, images, _BATCH):
            part = slice(start, start + _BATCH)
            pictures = world.render(truth[part]).to(self._tools.device)
            measurement.update(Batch(range(images)[part], pictures, captions[part]))
        return measurement.results()

    def _of_folder(self, folder: Path) -> dict[str, Result]:
        paths = pictures_in(folder)
        measurement = self._measurement(len(paths), lambda metric: metric.better == "nearer to real")
        if not measurement.metrics:
            return {}
        start = 0
        for pictures in read_pictures(paths, given(self._tools.size)):
            measurement.update(Batch(range(start, start + len(pictures)), pictures.to(self._tools.device)))
            start += len(pictures)
        return measurement.results()

    def _measurement(self, images: int, chosen: Callable[[Metric], bool]) -> Measurement:
        return Measurement({metric: meter for metric, meter in self._open.items() if chosen(metric)}, Run(images))


class Measurement:
    """The metrics of one cell."""

    def __init__(self, meters: dict[Metric, Meter], run: Run) -> None:
        self._open = {metric: meter.start(run) for metric, meter in meters.items()}

    @property
    def metrics(self) -> list[Metric]:
        """What is measured."""
        return list(self._open)

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
