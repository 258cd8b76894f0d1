"""Metrics: how each is written and read, what it needs, and how it measures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from pathlib import Path

from sdlab.metrics.base import Batch, Complaint, Metric, Result, Run, Subject, Tools
from sdlab.metrics.changes_made import ChangesMade
from sdlab.metrics.clip_score import ClipScore
from sdlab.metrics.feature_distance import FeatureDistance
from sdlab.metrics.fid import Fid
from sdlab.metrics.files import MetricFiles
from sdlab.metrics.kid import Kid
from sdlab.metrics.meters import Measurement, Meters
from sdlab.metrics.prompt_accuracy import PromptAccuracy
from sdlab.metrics.psnr import Psnr
from sdlab.metrics.reference_error import ReferenceError
from sdlab.metrics.ssim import Ssim
from sdlab.metrics.w2 import W2

__all__ = [
    "METRICS",
    "Batch",
    "Measurement",
    "Meters",
    "Metric",
    "MetricFiles",
    "Result",
    "Run",
    "Subject",
    "Tools",
    "complaints",
    "content_files",
    "labelled",
    "missing_files",
]

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Fid(),
        Kid(),
        ClipScore(),
        PromptAccuracy(),
        ChangesMade(),
        Psnr(),
        Ssim(),
        FeatureDistance(),
        ReferenceError(),
        W2(),
    )
}

_LACKING = {
    "pictures": "measured on pictures, and {name} makes none",
    "prompts": "compared with prompts, and {name} has none",
    "inputs": "compared with input pictures, which not every image of {name} has",
    "samples": "measured on the samples of a sweep, and {name} is not one",
}


def labelled(name: str, files: MetricFiles) -> Metric:
    """The metric, with a label that says on what it is measured when these files are given."""
    metric = copy(METRICS[name])
    metric.label = metric.label_with(files)
    return metric


def complaints(names: Sequence[str], subject: Subject) -> list[str]:
    """Why metrics cannot be measured on a subject, one line each; missing files are another matter."""
    found = _lines((name, complaint) for name in names for complaint in _check(METRICS[name], subject))
    if subject.files.reference is not None and subject.files.inception is None:
        found.append("metric_files.reference: goes with inception; the lab evaluator is compared with renders")
    return found


def missing_files(names: Sequence[str], files: MetricFiles) -> list[str]:
    """The files that metrics need and that are not found, one line each."""
    return _lines((name, complaint) for name in names for complaint in METRICS[name].missing(files))


def content_files(names: Iterable[str], files: MetricFiles) -> list[Path]:
    """The files whose content the values depend on, each once, in an order that depends on nothing else."""
    return list(dict.fromkeys(path for name in sorted(names) for path in METRICS[name].content(files)))


def _check(metric: Metric, subject: Subject) -> Iterator[Complaint]:
    lacking = next((need for need in _LACKING if need in metric.needs - subject.has), None)
    if lacking is None:
        yield from metric.check(subject)
    else:
        yield "metrics", _LACKING[lacking].format(name=subject.name)


def _lines(found: Iterable[tuple[str, Complaint]]) -> list[str]:
    """A line for each complaint; equal ones of several metrics become one."""
    names: dict[Complaint, list[str]] = {}
    for name, complaint in found:
        names.setdefault(complaint, []).append(name)
    return [
        f"metrics: {', '.join(by)}: {text}" if key == "metrics" else f"{key}: {text}"
        for (key, text), by in names.items()
    ]
