"""Metrics of a folder of pictures, without a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from samplers.checks import unknown
from sdlab.metrics import METRICS, complaints, missing_files
from sdlab.metrics.base import Batch, Need, Result, Run, Subject, Tools, all_repeat, units_of
from sdlab.metrics.files import MetricFiles
from sdlab.metrics.lab import world_of
from sdlab.metrics.meters import Meters
from sdlab.metrics.pictures import pictures_in, read_pictures, size_of
from sdlab.model.config import Size
from sdlab.system.errors import UsageError

_BATCH = 64


@dataclass(frozen=True)
class PictureFolder:
    """A folder of pictures of one size, in the natural order of their paths: 2.png before 10.png."""

    place: Path
    paths: tuple[Path, ...]
    size: Size
    prompts: tuple[str, ...] | None  # one per picture
    inputs: tuple[Path, ...]  # one input picture per picture, or none
    captions: tuple[str, ...]  # one per input picture, or none
    files: MetricFiles

    @property
    def units(self) -> tuple[int, ...]:
        """The unit of each picture. Pictures of one prompt are one unit."""
        return units_of(self.prompts or (), len(self.paths))

    @property
    def subject(self) -> Subject:
        """What metrics need to know about the pictures."""
        has: set[Need] = {"pictures"}
        has |= {"prompts"} if self.prompts is not None else set()
        has |= {"inputs"} if self.inputs else set()
        has |= {"captions"} if self.captions else set()
        has |= {"repeated prompts"} if self.prompts and all_repeat(self.units) else set()
        return Subject(
            str(self.place),
            len(self.paths),
            frozenset(has),
            self.size,
            self.prompts or (),
            self.captions,
            files=self.files,
        )

    def can_measure(self, name: str) -> bool:
        """Whether a metric can be measured on these pictures. Mistakes in `files` make it fail, not impossible."""
        lacking = {key for key, _ in METRICS[name].missing(self.files)}
        return not complaints([name], self.subject) and "metrics" not in lacking


def open_folder(
    folder: str | Path,
    prompts: Sequence[str] | None = None,
    inputs: str | Path | None = None,
    files: MetricFiles | None = None,
    captions: Sequence[str] | None = None,
) -> PictureFolder:
    """The pictures in a folder and its subfolders.

    Raises:
        UsageError: the folder is empty, a picture cannot be read or has another size, or the numbers of pictures,
            prompts, inputs and captions differ.
    """
    place, files = Path(folder), files or MetricFiles()
    files = files.model_copy(update={"world": files.world or world_of(prompts or ())})
    paths, size = _pictures(place)
    if prompts is not None and len(prompts) != len(paths):
        raise UsageError(f"{place}: has {len(paths)} pictures for {len(prompts)} prompts; give one per picture")
    input_paths: list[Path] = []
    if inputs is not None:
        input_paths, input_size = _pictures(Path(inputs))
        if (len(input_paths), input_size) != (len(paths), size):
            raise UsageError(
                f"{inputs}: has {_description(input_paths, input_size)}, but {place} has {_description(paths, size)}; "
                "number and size should match"
            )
    if captions is not None and inputs is None:
        raise UsageError("captions describe input pictures; give a folder of them too")
    if captions is not None and len(captions) != len(input_paths):
        raise UsageError(
            f"{inputs}: has {len(input_paths)} pictures for {len(captions)} captions; give one per picture"
        )
    given = None if prompts is None else tuple(prompts)
    return PictureFolder(place, tuple(paths), size, given, tuple(input_paths), tuple(captions or ()), files)


def measure_folder(
    folder: str | Path,
    metrics: Sequence[str],
    *,
    prompts: Sequence[str] | None = None,
    inputs: str | Path | None = None,
    captions: Sequence[str] | None = None,
    files: MetricFiles | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Result]:
    """The metrics of all pictures in a folder and its subfolders, in the natural order of their paths.

    Args:
        folder: pictures of one size.
        metrics: names from `METRICS`, of picture metrics.
        prompts: one per picture, for metrics that need prompts.
        inputs: a folder with one input picture per picture, of the same size, for image-to-image metrics.
        captions: one per input picture, for directional similarity.
        files: as `[metric_files]` in a sweep; metrics in CLIP's space need `clip`.
        device: the networks' device.

    Raises:
        UsageError: a metric is unknown or cannot be measured on these pictures, or a file is missing or cannot be read.
    """
    check_names(metrics)
    return measure(open_folder(folder, prompts, inputs, files, captions), metrics, device)


def measure(folder: PictureFolder, metrics: Sequence[str], device: torch.device | str = "cpu") -> dict[str, Result]:
    """The metrics of the pictures of an opened folder.

    Raises:
        UsageError: a metric is unknown or cannot be measured on these pictures, or a file is missing or cannot be read.
    """
    check_names(metrics)
    paths, size, prompts, files = folder.paths, folder.size, folder.prompts, folder.files
    if wrong := [*complaints(metrics, folder.subject), *missing_files(metrics, files)]:
        raise UsageError(*wrong)
    run = Run(len(paths), units=folder.units)
    measurement = Meters([METRICS[name] for name in metrics], Tools(size, None, files, device)).start(run)
    for start in range(0, len(paths), _BATCH):
        part = slice(start, start + _BATCH)
        [pictures] = read_pictures(paths[part], size, _BATCH)
        before = [batch.to(device) for batch in read_pictures(folder.inputs[part], size, _BATCH)]
        batch = Batch(
            indices=range(len(paths))[part],
            pictures=pictures.to(device),
            prompts=None if prompts is None else prompts[part],
            inputs=before[0] if before else None,
            captions=folder.captions[part] or None,
        )
        measurement.update(batch)
    return measurement.results()


def check_names(metrics: Sequence[str]) -> None:
    """Check that these are names of metrics.

    Raises:
        UsageError: one is unknown.
    """
    for name in metrics:
        if name not in METRICS:
            raise UsageError(unknown("metric", name, METRICS))


def _pictures(folder: Path) -> tuple[list[Path], Size]:
    """The pictures of a folder, and their common size."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: is not a folder; give a folder of pictures")
    paths = sorted(pictures_in(folder), key=_natural)
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


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sorting key by which numbers are in their order: 2.png before 10.png."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _description(paths: Sequence[Path], size: Size) -> str:
    return f"{len(paths)} of {size[0]} × {size[1]}"
