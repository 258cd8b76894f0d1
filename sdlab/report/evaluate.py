"""Metrics of folders of pictures from any tool, with the intervals and verdicts of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sdlab.metrics import METRICS, Metric, MetricFiles, Result, complaints, labelled, unused_files
from sdlab.metrics.base import units_of
from sdlab.metrics.folder import PictureFolder, check_names, measure
from sdlab.report.columns import Column, Field, Table
from sdlab.report.statistics import standings
from sdlab.report.table import MARKS, legend, measured
from sdlab.system.errors import UsageError


@dataclass(frozen=True)
class Measures:
    """The measurements of a folder, in the form of a row of the store."""

    name: str
    metrics: dict[str, float]
    stderr: dict[str, float]
    per_image: dict[str, NDArray[np.floating]]
    replicates: dict[str, NDArray[np.floating]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Always: a folder that cannot be measured is an error."""
        return True

    @classmethod
    def of(cls, name: str, found: dict[str, Result]) -> Measures:
        """The measurements of a folder with this name."""
        return cls(
            name,
            {key: one.value for key, one in found.items()},
            {key: one.stderr for key, one in found.items() if one.stderr is not None},
            {key: one.per_image.numpy() for key, one in found.items() if one.per_image is not None},
            {key: one.replicates.numpy() for key, one in found.items() if one.replicates is not None},
        )


def evaluate(folders: Sequence[PictureFolder], names: Sequence[str], files: MetricFiles, device: str = "cpu") -> Table:
    """One row per folder. Picture i of each is compared with picture i of the others, if they are as many.

    Args:
        folders: opened folders with the same prompts.
        names: the metrics; none means all that can be measured on every folder.
        files: as `[metric_files]` in a sweep.
        device: the networks' device.

    Raises:
        UsageError: a metric cannot be measured, or none reads a file that is set.
    """
    names = names or [name for name in METRICS if all(folder.can_measure(name) for folder in folders)]
    check_names(names)
    if unused := [*_unused(names, folders)]:
        raise UsageError(*unused)
    rows = [Measures.of(str(folder.place), measure(folder, names, device)) for folder in folders]
    metrics = [labelled(name, folders[0].files) for name in names]
    prompts = folders[0].prompts or ()
    units = units_of(prompts, len(folders[0].paths))
    columns = [column for metric in metrics for column in measured(metric, rows, units, standings(metric, rows, units))]
    counts = [len(folder.paths) for folder in folders]
    caption = [
        *([f"{MARKS}."] if len(rows) > 1 else []),
        legend(metrics),
        *_preparations(metrics, folders[0].files),
        *(f"{metric.label}: {caution}" for metric in metrics if (caution := metric.caution(files, min(counts)))),
    ]
    if len(set(counts)) > 1:
        caption.append("The folders have different numbers of pictures, so they are not compared picture by picture.")
        caption += [f"{m.label} depends on the number of pictures; do not compare these." for m in metrics if m.biased]
    places = tuple(row.name for row in rows)
    return Table(
        "pictures",
        (
            Column("folder", "folder", places, tuple(map(Field, places)), left=True),
            Column("pictures", "pictures", tuple(counts), tuple(Field(str(count)) for count in counts)),
            *columns,
        ),
        tuple(caption),
    )


def _unused(names: Sequence[str], folders: Sequence[PictureFolder]) -> Iterator[str]:
    """The files that no metric reads, and why those that would are not possible."""
    for key, readers in unused_files(names, folders[0].files).items():
        yield f"metric_files.{key}: has no effect, because it is only for {', '.join(readers)}"
        for folder in folders:
            if not any(map(folder.can_measure, readers)):
                yield from complaints(readers, folder.subject)


def _preparations(metrics: Sequence[Metric], files: MetricFiles) -> list[str]:
    """How the pictures are changed before they are measured, in one line for all metrics that do the same."""
    labels: dict[str, list[str]] = {}
    for metric in metrics:
        labels.setdefault(metric.preparation(files), []).append(metric.label)
    return [f"{', '.join(by)}: {text}." for text, by in labels.items()]
