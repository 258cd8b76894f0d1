"""The metric interface and its data types.

A `Metric` describes itself before anything is loaded. `Metric.open` loads it once per sweep and returns a `Meter`.
`Meter.start` returns an `Accumulator`, which measures one cell, batch by batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor

import samplers
from samplers.exact.families import ClassMixture
from samplers.exact.problems import Gaussian
from sdlab.metrics import jackknife
from sdlab.metrics.files import MetricFiles
from sdlab.model.clip import Clip
from sdlab.model.config import Size
from sdlab.model.tokenizer import Tokenizer

T = TypeVar("T")

Need = Literal["pictures", "prompts", "inputs", "captions", "samples", "repeated prompts"]
PICTURES, PROMPTS, INPUTS = frozenset[Need]({"pictures"}), frozenset[Need]({"prompts"}), frozenset[Need]({"inputs"})
CAPTIONS = frozenset[Need]({"captions"})
SAMPLES, REPEATS = frozenset[Need]({"samples"}), frozenset[Need]({"repeated prompts"})

Better = Literal["lower", "higher", "nearer to real"]
"""Which values are better. Nearer to real: the value of real pictures is best, and it is shown with the values."""
ARROWS: dict[Better, str] = {"lower": "↓", "higher": "↑", "nearer to real": "→"}

Complaint = tuple[str, str]
"""A key of the sweep file and its problem. Equal complaints of several metrics become one line."""


@dataclass(frozen=True)
class Subject:
    """The source of the pictures or samples, a model or a folder of pictures, before anything is loaded."""

    name: str
    images: int  # per cell
    # "inputs": every image has an input picture; "captions": so have these; "repeated prompts": each has several images
    has: frozenset[Need]
    size: Size | None = None  # (height, width) of its pictures, if known
    prompts: Sequence[str] = ()
    captions: Sequence[str] = ()  # of the input pictures, one per prompt, if it has them
    clip: bool = False  # whether the model contains a CLIP with a vision tower
    from_noise: bool = True  # whether every image starts from noise alone
    gaussian: bool = False  # whether its data are Gaussian with a known law, unconditional
    classes: int = 0  # of its data, if their laws are known
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
    classes: ClassMixture | None = None  # the laws of the classes, if known; image i is of class i mod C
    flow_ends: Callable[[], Tensor] | None = None  # the end of the probability flow from each image's noise, (N, …)
    # samples (B, …) of these images -> the same, inverted and drawn again, with the memory of the inversion or without
    round_trip: Callable[[Sequence[int], Tensor, bool], Tensor] | None = None
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
    captions: Sequence[str] | None = None  # of the input pictures
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
            fields = (self.indices, self.pictures, self.prompts, self.inputs, self.samples, self.captions)
            yield Batch(*(None if whole is None else whole[part] for whole in fields))  # type: ignore[arg-type]


def units_of(prompts: Sequence[str], images: int) -> tuple[int, ...]:
    """The unit of each image, numbered from 0, if image i has prompt i mod P of the P prompts.

    Images of one prompt are one unit of the statistics.
    """
    first: dict[str, int] = {}
    of_prompt = [first.setdefault(prompt, len(first)) for prompt in prompts[:images]]
    return tuple(of_prompt[i % len(of_prompt)] if of_prompt else i for i in range(images))


def all_repeat(units: Sequence[int]) -> bool:
    """Whether each unit has at least two images."""
    return min(Counter(units).values(), default=0) > 1


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

    @classmethod
    def jackknife(cls, units: int, without: Callable[[Sequence[int]], float]) -> Result:
        """A metric of the whole set. `without(some)` is its value without some of the units."""
        whole = without([])
        found = jackknife.replicates(whole, units, without)
        return cls(whole, jackknife.standard_error(found), replicates=torch.from_numpy(found))


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


def significant(value: float, digits: int) -> str:
    """`"0.0800"` or `"1.23e-09"`: so many significant digits."""
    return f"{value:#.{digits}g}".rstrip(".")


class Metric(ABC):
    """A metric: its name and format, its requirements, and how it is loaded.

    A `per_image` metric is the mean of one value per image, so two cells can be compared image by image. The others are
    properties of the whole set. Values that range over `powers` of ten are written with significant digits. The values
    per image of a `share` are between 0 and 1. A `biased` metric depends on the number of images, and one that also
    `extrapolates` has a bias that falls as 1/n.
    """

    name: str
    label: str
    better: Better
    digits: int
    about: str
    needs: frozenset[Need]
    reads: frozenset[str] = frozenset()  # keys of [metric_files]
    per_image: bool = True
    powers: bool = False
    share: bool = False
    biased: bool = False
    extrapolates: bool = False

    @property
    def additive(self) -> bool:
        """Whether the value of an image depends on that image alone, so that images can be added to a cell later."""
        return self.per_image and not self.biased and "repeated prompts" not in self.needs

    def text(self, value: float) -> str:
        """`"3.21"`. With `powers`, so many significant digits and one more, like `"0.0472"` or `"4.72e-09"`."""
        return significant(value, self.digits + 1) if self.powers else f"{value:.{self.digits}f}"

    def error_text(self, error: float) -> str:
        """A standard error in the digits of the values, or with one digit if that would be 0."""
        if self.powers:
            return significant(error, self.digits)
        text = f"{error:.{self.digits}f}"
        return text if not error or float(text) else f"{error:.{math.ceil(-math.log10(error))}f}"

    def error(self, error: float, units: int) -> float:
        """The standard error of a mean over units, whose estimated one may be 0 because all of them agree.

        For a share it is then the distance to the limit of Wilson's interval at one standard error, 1/(U + 1).
        """
        return max(error, 1 / (units + 1)) if self.share else error

    def label_with(self, files: MetricFiles) -> str:
        """The label, for metrics whose label depends on the files."""
        return self.label

    def preparation(self, files: MetricFiles) -> str:
        """How pictures are changed before they are measured; it changes the value."""
        return "pictures at their own size, in floating point" if "pictures" in self.needs else "samples as they are"

    def caution(self, files: MetricFiles, images: int) -> str:
        """What to keep in mind for so many images; empty for enough of them."""
        return ""

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
