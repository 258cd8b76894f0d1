"""The real pictures of `[metric_files]`: a folder, or a file of their statistics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sdlab.metrics.base import Complaint
from sdlab.metrics.files import MetricFiles
from sdlab.metrics.pictures import pictures_in


def only_statistics(files: MetricFiles) -> bool:
    """Whether the real pictures are given as a file of statistics."""
    place = Path(files.reference or "")
    return place.suffix == ".npz" or place.is_file()


def missing_reference(files: MetricFiles, fewest: int) -> Iterator[Complaint]:
    """A complaint if the file or folder is not there, or if the folder has fewer than `fewest` pictures."""
    if files.reference is None:
        return
    place = Path(files.reference)
    if place.is_dir():
        if len(pictures_in(place)) < fewest:
            yield "metric_files.reference", f"{place}: has fewer than {fewest} pictures"
    elif not place.is_file():
        file = ", or an .npz file with mu and sigma" if files.inception or files.dinov2 else ""
        yield "metric_files.reference", f"{place}: not found; it should be a folder of real pictures{file}"
