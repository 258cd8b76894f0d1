"""The registry of metrics, and checks of their requirements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from pathlib import Path

from sdlab.metrics.base import Batch, Complaint, Metric, Result, Run, Subject, Tools
from sdlab.metrics.changes_made import ChangesMade
from sdlab.metrics.class_probability import ClassProbability
from sdlab.metrics.clip_score import ClipScore
from sdlab.metrics.cmmd import Cmmd
from sdlab.metrics.contrast import Contrast
from sdlab.metrics.coverage import Coverage
from sdlab.metrics.density import Density
from sdlab.metrics.directional_similarity import DirectionalSimilarity
from sdlab.metrics.diversity import Diversity
from sdlab.metrics.feature_distance import FeatureDistance
from sdlab.metrics.fid import Fid
from sdlab.metrics.files import MetricFiles
from sdlab.metrics.inception_score import InceptionScore
from sdlab.metrics.kid import Kid
from sdlab.metrics.meters import Measurement, Meters
from sdlab.metrics.mind import Mind
from sdlab.metrics.mmd import Mmd
from sdlab.metrics.noise_round_trip_error import NoiseRoundTripError
from sdlab.metrics.precision import Precision
from sdlab.metrics.prompt_accuracy import PromptAccuracy
from sdlab.metrics.psnr import Psnr
from sdlab.metrics.reader_disagreement import ReaderDisagreement
from sdlab.metrics.recall import Recall
from sdlab.metrics.reference_error import ReferenceError
from sdlab.metrics.round_trip_error import RoundTripError
from sdlab.metrics.saturation import Saturation
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
    "unused_files",
]

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Fid(),
        Kid(),
        Mind(),
        Cmmd(),
        InceptionScore(),
        Precision(),
        Recall(),
        Density(),
        Coverage(),
        Diversity(),
        Saturation(),
        Contrast(),
        ClipScore(),
        PromptAccuracy(),
        ReaderDisagreement(),
        ChangesMade(),
        DirectionalSimilarity(),
        Psnr(),
        Ssim(),
        FeatureDistance(),
        ReferenceError(),
        RoundTripError(),
        NoiseRoundTripError(),
        W2(),
        Mmd(),
        ClassProbability(),
    )
}

_LACKING = {
    "pictures": "not possible, because {name} makes no pictures of a known size",
    "prompts": "not possible, because {name} has no prompts",
    "inputs": "not possible, because some images of {name} have no input picture",
    "captions": "not possible, because some input pictures of {name} have no caption",
    "samples": "not possible, because {name} is not a sweep",
    "repeated prompts": "not possible, because {name} has a prompt with one image only; make several of each prompt",
}


def labelled(name: str, files: MetricFiles) -> Metric:
    """The metric, labelled for these files, such as "FID (Inception)"."""
    metric = copy(METRICS[name])
    metric.label = metric.label_with(files)
    return metric


def complaints(names: Sequence[str], subject: Subject) -> list[str]:
    """Why metrics cannot be measured on a subject, one line each. Missing files are not included."""
    return _lines((name, complaint) for name in names for complaint in _check(METRICS[name], subject))


def missing_files(names: Sequence[str], files: MetricFiles) -> list[str]:
    """The missing files of metrics, one line each."""
    return _lines((name, complaint) for name in names for complaint in METRICS[name].missing(files))


def content_files(names: Iterable[str], files: MetricFiles) -> list[Path]:
    """The files whose content affects the values, without duplicates, in a fixed order."""
    return list(dict.fromkeys(path for name in sorted(names) for path in METRICS[name].content(files)))


def unused_files(names: Iterable[str], files: MetricFiles) -> dict[str, list[str]]:
    """The keys of files that none of these metrics reads, each with the metrics that do."""
    used = frozenset[str]().union(*(METRICS[name].reads for name in names))
    return {key: [name for name in METRICS if key in METRICS[name].reads] for key in files.given if key not in used}


def _check(metric: Metric, subject: Subject) -> Iterator[Complaint]:
    lacking = next((need for need in _LACKING if need in metric.needs - subject.has), None)
    if lacking is None:
        yield from metric.check(subject)
    else:
        yield "metrics", _LACKING[lacking].format(name=subject.name)


def _lines(found: Iterable[tuple[str, Complaint]]) -> list[str]:
    """One line per complaint. Equal complaints of several metrics are merged."""
    names: dict[Complaint, list[str]] = {}
    for name, complaint in found:
        names.setdefault(complaint, []).append(name)
    return [
        f"metrics: {', '.join(by)}: {text}" if key == "metrics" else f"{key}: {text}"
        for (key, text), by in names.items()
    ]
