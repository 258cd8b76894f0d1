"""The metric interface and its data types.

A `Metric` describes itself before anything is loaded. `Metric.open` loads it once per sweep and returns a `Meter`.
`Meter.start` returns an `Accumulator`, which measures one cell, batch by batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor

import samplers
from samplers.exact.problems import Gaussian
from sdlab.metrics.files import MetricFiles
from sdlab.model.clip import Clip
from sdlab.model.config import Size
from sdlab.model.tokenizer import Tokenizer

T = TypeVar("T")

Need = Literal["pictures", "prompts", "inputs", "samples"]
PICTURES, PROMPTS, INPUTS = frozenset[Need]({"pictures"}), frozenset[Need]({"prompts"}), frozenset[Need]({"inputs"})
SAMPLES = frozenset[Need]({"samples"})

Complaint = tuple[str, str]
"""A key of the sweep file and its problem. Equal complaints of several metrics become one line."""


@dataclass(frozen=True)
class Subject:
    """The source of the pictures or samples, a model or a folder of pictures, before anything is loaded."""

    name: str
    images: int  # per cell
    has: frozenset[Need]  # "inputs" only if every image has an input picture
    size: Size | None = None  # (height, width) of its pictures, if known
    prompts: Sequence[str] = ()
    clip: bool = False  # whether the model contains a CLIP with a vision tower
    from_noise: bool = True  # whether every image starts from noise alone
    gaussian: bool = False  # whether its data are Gaussian with a known law, unconditional
    files: MetricFiles = field(default_factory=MetricFiles)


class Tools:
    """Resources for loading metrics. Networks that several metrics use are loaded once."""

    def __init__(
        self,
        size: Size | None = None,
        clip: tuple[Clip, Tokenizer] | None = None,
        files: MetricFiles | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """`size` is (height, width) of the pictures; `clip` is the model's CLIP, with a vision tower."""
        self.size, self.clip, self.files, self.device = size, clip, files or MetricFiles(), torch.device(device)
        self._loaded: dict[Hashable, Any] = {}

    def shared(self, load: Callable[[Tools], T]) -> T:
        """`load(self)`, called once for all metrics."""
        if load not in self._loaded:
            self._loaded[load] = load(self)
        return cast(T, self._loaded[load])


@dataclass(frozen=True)
class Run:
    """The settings of a cell, for metrics that need more than its images."""

    images: int
    sampler: samplers.Sampler | None = None  # with the model's noise schedule
    sigmas: Sequence[float] = ()
    law: Gaussian | None = None  # of the data, if Gaussian and known
    flow_ends: Callable[[], Tensor] | None = None  # the end of the probability flow from each image's noise, (N, …)
    units: Sequence[
        int
    ] = ()  # (N,), the unit of each image; images of one prompt are one unit. Empty: each image is one


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images of a cell, in any order. The fields that no metric needs may be None."""

    indices: Sequence[int]
    pictures: Tensor | None = None  # (B, 3, H, W) in [−1, 1]
    prompts: Sequence[str] | None = None
    inputs: Tensor | None = None  # (B, 3, H, W) in [−1, 1], the input pictures of image-to-image
    samples: Tensor | None = None  # (B, …), the latents of a latent diffusion model
    _known: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def once(self, compute: Callable[[Batch], T]) -> T:
        """`compute(self)`, computed once for all metrics."""
        if compute not in self._known:
            self._known[compute] = compute(self)
        return cast(T, self._known[compute])

    def split(self, size: int) -> Iterator[Batch]:
        """The same images in batches of at most `size`."""
        for start in range(0, len(self.indices), size):
            part = slice(start, start + size)
            fields = (self.indices, self.pictures, self.prompts, self.inputs, self.samples)
            yield Batch(*(None if whole is None else whole[part] for whole in fields))  # type: ignore[arg-type]


def given(value: T | None) -> T:
    """A field of a batch or a run that the metric's `needs` guarantee to be set."""
    assert value is not None
    return value


@dataclass(frozen=True)
class Result:
    """The value of a metric for a cell."""

    value: float
    stderr: float | None = None
    per_image: Tensor | None = None  # (N,) in the order of the images, for a metric that is a mean over them
    replicates: Tensor | None = None  # (2, U) of the jackknife, for a metric of the whole set

    @classmethod
    def mean(cls, values: Tensor) -> Result:
        """The mean of one value per image, (N,)."""
        stderr = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else 0.0
        return cls(float(values.mean()), stderr, values)


class Accumulator(Protocol):
    """Accumulates a metric over one cell without keeping pictures."""

    def update(self, batch: Batch) -> None:
        """Add some images. Every image of a cell is added once."""
        ...

    def result(self) -> Result:
        """The metric of all images so far.

        Raises:
            SdlabError: this cell has no value.
        """
        ...


class Meter(Protocol):
    """A loaded metric."""

    def start(self, run: Run) -> Accumulator:
        """Begin a cell."""
        ...


class Metric(ABC):
    """A metric: its name and format, its requirements, and how it is loaded.

    A `per_image` metric is the mean of one value per image, so two cells can be compared image by image. The others are
    properties of the whole set. Values that range over orders of magnitude are written in `powers` of ten. The values
    per image of a `share` are between 0 and 1. A `biased` metric depends on the number of images.
    """

    name: str
    label: str
    better: Literal["lower", "higher"]
    digits: int
    about: str
    needs: frozenset[Need]
    per_image: bool = True
    powers: bool = False
    share: bool = False
    biased: bool = False

    def text(self, value: float) -> str:
        """`"3.21"`, or `"4.7e-03"`."""
        return f"{value:.{self.digits}{'e' if self.powers else 'f'}}"

    def error(self, error: float, units: int) -> float:
        """The standard error of a mean over units, whose estimated one may be 0 because all of them agree.

        For a share it is then the distance to the limit of Wilson's interval at one standard error, 1/(U + 1).
        """
        return max(error, 1 / (units + 1)) if self.share else error

    def label_with(self, files: MetricFiles) -> str:
        """The label, for metrics whose label depends on the files."""
        return self.label

    def missing(self, files: MetricFiles) -> Iterable[Complaint]:
        """The missing files and packages."""
        return ()

    def check(self, subject: Subject) -> Iterable[Complaint]:
        """Further reasons why the metric cannot be measured on a subject that meets its `needs`."""
        return ()

    def content(self, files: MetricFiles) -> Iterable[Path]:
        """The files whose content affects the values."""
        return ()

    @abstractmethod
    def open(self, tools: Tools) -> Meter:
        """Load everything that all cells share.

        Raises:
            SdlabError: a file is damaged or has another format.
        """


class Rows:
    """Rows of a tensor that arrive in any order."""

    def __init__(self) -> None:
        self._indices: list[int] = []
        self._parts: list[Tensor] = []

    def add(self, indices: Sequence[int], rows: Tensor) -> None:
        """Add rows (B, …), one per index. They are kept on the CPU."""
        self._indices += indices
        self._parts.append(rows.cpu())

    def sorted(self) -> Tensor:
        """All rows in the order of their indices, (N, …)."""
        return torch.cat(self._parts)[torch.tensor(self._indices).argsort()]


class PerImage:
    """The meter of a metric that averages one value per image."""

    def __init__(self, measure: Callable[[Batch], Tensor]) -> None:
        """`measure` returns the values (B,) of a batch."""
        self._measure = measure

    def start(self, run: Run) -> Accumulator:
        """Begin a cell."""
        return Values(self._measure)


class Values:
    """The accumulator of one value per image."""

    def __init__(self, measure: Callable[[Batch], Tensor]) -> None:
        self._measure, self._rows = measure, Rows()

    def update(self, batch: Batch) -> None:
        """Measure a batch."""
        self._rows.add(batch.indices, self._measure(batch))

    def result(self) -> Result:
        """The mean."""
        return Result.mean(self._rows.sorted())
