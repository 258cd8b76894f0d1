"""Metrics of a folder of pictures, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from samplers.checks import unknown
from sdlab.metrics import METRICS, complaints, missing_files
from sdlab.metrics.base import Batch, Need, Result, Run, Subject, Tools
from sdlab.metrics.files import MetricFiles
from sdlab.metrics.lab import world_of
from sdlab.metrics.meters import Meters
from sdlab.metrics.pictures import pictures_in, read_pictures, size_of
from sdlab.model.config import Size
from sdlab.system.errors import UsageError

_BATCH = 64


def measure_folder(
    folder: str | Path,
    metrics: Sequence[str],
    *,
    prompts: Sequence[str] | None = None,
    inputs: str | Path | None = None,
    files: MetricFiles | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Result]:
    """The metrics of all pictures in a folder and its subfolders, in the order of their paths.

    Args:
        folder: pictures of one size.
        metrics: names from `METRICS`, of picture metrics.
        prompts: one per picture, for metrics that need prompts.
        inputs: a folder with one input picture per picture, of the same size, for image-to-image metrics.
        files: as `[metric_files]` in a sweep; the CLIP score needs `clip`.
        device: the networks' device.

    Raises:
        UsageError: a metric is unknown or cannot be measured on these pictures, or a file is missing or cannot be read.
    """
    place, files = Path(folder), files or MetricFiles()
    files = files.model_copy(update={"world": files.world or world_of(prompts or ())})
    for name in metrics:
        if name not in METRICS:
            raise UsageError(unknown("metric", name, METRICS))
    paths, size = _pictures(place)
    has: set[Need] = {"pictures"}
    if prompts is not None:
        has.add("prompts")
        if len(prompts) != len(paths):
            raise UsageError(f"{place}: has {len(paths)} pictures for {len(prompts)} prompts; give one per picture")
    input_paths: list[Path] = []
    if inputs is not None:
        has.add("inputs")
        input_paths, input_size = _pictures(Path(inputs))
        if (len(input_paths), input_size) != (len(paths), size):
            raise UsageError(
                f"{inputs}: has {_description(input_paths, input_size)}, but {place} has {_description(paths, size)}; "
                "number and size should match"
            )
    subject = Subject(str(place), len(paths), frozenset(has), size, prompts or (), files=files)
    if wrong := [*complaints(metrics, subject), *missing_files(metrics, files)]:
        raise UsageError(*wrong)
    measurement = Meters([METRICS[name] for name in metrics], Tools(size, None, files, device)).start(Run(len(paths)))
    for start in range(0, len(paths), _BATCH):
        part = slice(start, start + _BATCH)
        [pictures] = read_pictures(paths[part], size, _BATCH)
        before = [batch.to(device) for batch in read_pictures(input_paths[part], size, _BATCH)]
        batch = Batch(
            indices=range(len(paths))[part],
            pictures=pictures.to(device),
            prompts=None if prompts is None else prompts[part],
            inputs=before[0] if before else None,
        )
        measurement.update(batch)
    return measurement.results()


def _pictures(folder: Path) -> tuple[list[Path], Size]:
    """The pictures of a folder, and their common size."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: is not a folder; give a folder of pictures")
    paths = pictures_in(folder)
    if not paths:
        raise UsageError(f"{folder}: has no pictures")
    size = size_of(paths[0])
    for path in paths:
        if (other := size_of(path)) != size:
            raise UsageError(
                f"{path}: is {other[0]} × {other[1]}, and {paths[0].name} is {size[0]} × {size[1]}; the pictures of a "
                "folder should have one size"
            )
    return paths, size


def _description(paths: Sequence[Path], size: Size) -> str:
    return f"{len(paths)} of {size[0]} × {size[1]}"
