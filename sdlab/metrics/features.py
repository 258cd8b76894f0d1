"""Feature spaces for comparing sets of pictures with real ones, and the shared parts of the metrics that do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from sdlab.metrics import dinov2, inception, jackknife, lab
from sdlab.metrics.base import (
    PICTURES,
    Accumulator,
    Batch,
    Complaint,
    Meter,
    Metric,
    Result,
    Rows,
    Run,
    Subject,
    Tools,
    given,
)
from sdlab.metrics.files import MetricFiles
from sdlab.metrics.kept import kept
from sdlab.metrics.moments import Moments
from sdlab.metrics.pictures import pictures_in, read_pictures
from sdlab.metrics.reference import missing_reference, only_statistics
from sdlab.worlds.registry import AnyWorld

REFERENCE = 2048  # renders in the lab's reference set
REFERENCE_SEED = 30_000  # far from the seeds of the prompts and of training
FEWEST = 4  # images; with fewer the distances and their standard errors are undefined
STATISTICS_ONLY = "metrics", "needs a folder of real pictures, but metric_files.reference has only statistics"
_BATCH = 1024  # features
_PICTURES = 64  # pictures of a batch

Measure = Callable[[Tensor, Sequence[int]], Result]
"""From features (n, d) and the unit of each image to a value, with its errors."""


class Features(Protocol):
    """A feature space with a reference set of real pictures."""

    @property
    def reference(self) -> Tensor | Statistics:
        """The features (N, d) of the real pictures, or their statistics alone."""
        ...

    def __call__(self, batch: Batch) -> Tensor:
        """The features of a batch, (B, d) float32 on the CPU; use `batch.once(features)`."""
        ...


class OfFeatures(Metric):
    """A metric of the features of a cell and of real pictures."""

    needs = PICTURES
    reads = frozenset({"inception", "dinov2", "reference"})
    fewest: int = FEWEST  # images of a cell
    statistics_suffice: bool = False  # of the real pictures, in place of their features

    def label_with(self, files: MetricFiles) -> str:
        """`"FID (Inception)"`, `"FID (lab)"`, or the lab's features with other real pictures than renders."""
        network, own = _given(files), "lab" if files.reference is None else "lab, own reference"
        used = network.NAME if network else own
        return f"{self.label.removesuffix(' (lab)')} ({used})"

    def preparation(self, files: MetricFiles) -> str:
        """Networks of other projects have a size of their own."""
        network = _given(files)
        return str(network.PREPARATION) if network else super().preparation(files)

    def missing(self, files: MetricFiles) -> Iterator[Complaint]:
        """The missing files of the feature space."""
        if network := _given(files):
            yield from network.missing(files, FEWEST)
            return
        yield from lab.missing(files)
        if Path(files.reference or "").is_file():
            line = f"{files.reference}: the lab evaluator needs a folder of pictures; set inception for a file"
            yield "metric_files.reference", line
        yield from missing_reference(files, FEWEST)

    def check(self, subject: Subject) -> Iterator[Complaint]:
        """Whether there are enough pictures, of the right size."""
        if _given(subject.files) is None:
            yield from lab.check_size(
                subject, "; for Inception's features, set inception and reference in [metric_files]"
            )
        elif only_statistics(subject.files) and not self.statistics_suffice:
            yield STATISTICS_ONLY
        if subject.images < self.fewest:
            yield "metrics", f"needs at least {self.fewest} images per cell, got {subject.images}"

    def content(self, files: MetricFiles) -> Iterable[Path]:
        """The weights, and the real pictures if the user supplies them."""
        if network := _given(files):
            return list(network.content(files))
        own = [] if files.reference is None else pictures_in(Path(files.reference))
        return [lab.evaluator_file(files), *own]

    def open(self, tools: Tools) -> Meter:
        """Load the feature space and the reference set, shared by all such metrics."""
        features = tools.shared(load)
        return Gathering(features, self.to(features.reference))

    @abstractmethod
    def to(self, reference: Tensor | Statistics) -> Measure:
        """The function that measures features, given those of the real pictures."""


def units_within(units: Sequence[int], images: int, most: int) -> Tensor:
    """The unit of each image, (n,), at most `most` in all. The images are the units if there are too few others."""
    several = units if len(set(units)) >= jackknife.FEWEST else range(images)
    return torch.tensor(several) % most


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean (d,) and covariance (d, d) of a set of features, float64: the input of FID."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Statistics:
        """The statistics of features (N, d), N ≥ 2. No more than `_BATCH` of them are copied to float64 at once."""
        moments = reduce(add, map(Moments.of, features.split(_BATCH)))
        return cls(moments.mean, moments.covariance)

    @cached_property
    def root(self) -> Tensor:
        """A matrix R (d, d) with R Rᵀ the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return vectors * values.clamp(min=0).sqrt()


def features_of(files: MetricFiles) -> int:
    """The number of features of a picture."""
    network = _given(files)
    return int(network.width(files)) if network else lab.FEATURES


def load(tools: Tools) -> Features:
    """The network whose files are set, otherwise the lab evaluator; use `tools.shared(load)`."""
    network = _given(tools.files)
    return _OfNetwork(tools, tools.shared(network.load)) if network else LabFeatures(tools)


def _given(files: MetricFiles) -> ModuleType | None:
    """The module of the network whose files are set, or None for the lab evaluator."""
    return dinov2 if files.dinov2 else inception if files.inception else None


class LabFeatures:
    """The pooled features of the lab evaluator, each with mean 0 and variance 1 over real renders.

    They depend on what captions state and on what they leave open. The common scale keeps one feature from
    dominating, and the cubic kernel of KID from overflowing.
    """

    def __init__(self, tools: Tools) -> None:
        self._lab, network = tools.shared(lab.Lab), lab.evaluator_file(tools.files)

        def of(pictures: Iterable[Tensor]) -> Tensor:
            return torch.cat([self._lab.features(batch.to(tools.device)) for batch in pictures])

        raw = kept(renders_of(tools.files), [network], tools.device, lambda: of(renders(self._lab.world)))
        self._mean, self._std = raw.mean(0), raw.std(0)
        if tools.files.reference is not None:
            paths, size = pictures_in(Path(tools.files.reference)), self._lab.world.SIZE
            raw = kept(f"pictures of {size}", [network, *paths], tools.device, lambda: of(read_pictures(paths, size)))
        self.reference: Tensor | Statistics = (raw - self._mean) / self._std

    def __call__(self, batch: Batch) -> Tensor:
        """(B, 64)."""
        return (lab.raw_features(batch.once(self._lab.heads)) - self._mean) / self._std


class _OfNetwork:
    """The features of Inception or DINOv2, compared with the user's real pictures."""

    def __init__(self, tools: Tools, network: inception.Inception | dinov2.Dinov2) -> None:
        self._network = network
        place = Path(given(tools.files.reference))
        self.reference: Tensor | Statistics
        if place.is_file():
            self.reference = Statistics(*inception.read_statistics(place, self._network.num_features))
        else:
            size, module = given(tools.size), given(_given(tools.files))
            pictures = read_pictures(pictures_in(place), size)

            def compute() -> Tensor:
                return torch.cat([self._network(batch.to(tools.device)) for batch in pictures])

            what = f"{module.NAME} of pictures of {size}"
            self.reference = kept(what, module.content(tools.files), tools.device, compute)

    def __call__(self, batch: Batch) -> Tensor:
        """(B, 2048) of Inception, or (B, d)."""
        return batch.once(self._network.batch)


def renders_of(files: MetricFiles) -> str:
    """What `renders` of the world makes, in words."""
    return f"{REFERENCE} renders of {files.world} from seed {REFERENCE_SEED}"


def renders(world: AnyWorld) -> Iterator[Tensor]:
    """Batches of rendered pictures from the training distribution, 2048 in total."""
    truth = world.sample(REFERENCE, torch.Generator().manual_seed(REFERENCE_SEED), "train")
    for start in range(0, REFERENCE, _PICTURES):
        yield world.render(truth[start : start + _PICTURES])


@dataclass(frozen=True)
class Gathering:
    """The meter of a metric of the whole set, which is measured on features that are gathered batch by batch."""

    features: Callable[[Batch], Tensor]
    measure: Measure

    def start(self, run: Run) -> Accumulator:
        """Begin a cell."""
        return _Gathered(self.features, self.measure, run.units)


class _Gathered:
    """The features of a cell; the pictures are not kept."""

    def __init__(self, features: Callable[[Batch], Tensor], measure: Measure, units: Sequence[int]) -> None:
        self._features, self._measure, self._units, self._rows = features, measure, units, Rows()

    def update(self, batch: Batch) -> None:
        self._rows.add(batch.indices, batch.once(self._features))

    def result(self) -> Result:
        return self._measure(self._rows.sorted(), self._units)
