"""The kernel distance between two sets of CLIP embeddings (CMMD)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sdlab.metrics import clip_space, kernel_distance, lab
from sdlab.metrics.base import PICTURES, Complaint, Meter, Result, Subject, Tools, given
from sdlab.metrics.features import (
    FEWEST,
    STATISTICS_ONLY,
    Gathering,
    Measure,
    renders,
    renders_of,
    units_within,
)
from sdlab.metrics.files import MetricFiles
from sdlab.metrics.kept import kept
from sdlab.metrics.pictures import pictures_in, read_pictures
from sdlab.metrics.reference import missing_reference, only_statistics

_SIGMA, _SCALE = 10.0, 1000.0
_MOST_UNITS = 256  # of the jackknife


class Cmmd(clip_space.OfClip):
    """1000 times the squared maximum mean discrepancy of unit CLIP embeddings, for a Gaussian kernel of σ = 10.

    The real pictures are those of FID: `reference` in `[metric_files]`, or renders of the lab (Jayasumana et al. 2024,
    arXiv:2401.09603). The estimate is unbiased, so it can be negative. The authors' code keeps the pairs of a picture
    with itself and is therefore larger by a term that falls as 1/n. Published values are of ViT-L/14 at 336 pixels and
    cannot be compared with those of another CLIP.
    """

    name = "cmmd"
    label = "CMMD"
    better = "lower"
    digits = 3
    per_image = False
    about = "kernel (MMD) distance to real pictures in the model's CLIP space, or OpenAI's from [metric_files]"
    needs = PICTURES
    reads = frozenset({"clip", "reference"})

    def missing(self, files: MetricFiles) -> Iterator[Complaint]:
        """The missing files of OpenAI's CLIP, and too few real pictures."""
        yield from super().missing(files)
        yield from missing_reference(files, FEWEST)

    def check(self, subject: Subject) -> Iterator[Complaint]:
        """Whether there is a CLIP, and there are enough pictures, made and real."""
        yield from super().check(subject)
        if subject.files.reference is None and subject.size != lab.world(subject.files).SIZE:
            yield "metrics", "needs real pictures; name a folder of them as reference in [metric_files]"
        elif only_statistics(subject.files):
            yield STATISTICS_ONLY
        if subject.images < FEWEST:
            yield "metrics", f"needs at least {FEWEST} images per cell, got {subject.images}"

    def content(self, files: MetricFiles) -> Iterable[Path]:
        """The files of OpenAI's CLIP, and the real pictures if the user supplies them."""
        return [*super().content(files), *([] if files.reference is None else pictures_in(Path(files.reference)))]

    def open(self, tools: Tools) -> Meter:
        """Load the CLIP and embed the real pictures."""
        space = tools.shared(clip_space.load)
        place = tools.files.reference

        def compute() -> Tensor:
            real = renders(lab.world(tools.files)) if place is None else _pictures(Path(place), tools)
            return torch.cat([space.pictures(batch.to(tools.device)) for batch in real])

        if tools.files.clip is None:  # the model's own, whose file is not known here
            return Gathering(space.batch, to(compute()))
        what = f"CLIP of {renders_of(tools.files) if place is None else f'pictures of {tools.size}'}"
        return Gathering(space.batch, to(kept(what, self.content(tools.files), tools.device, compute)))


def to(real: Tensor) -> Measure:
    """The function that measures the distance of unit embeddings (n, d) to real ones (N, d).

    Its jackknife is over the units (n,), by default the images. The kernel among real ones is computed here, once.
    """
    among_real = kernel_distance.within(real, _kernel)

    def measure(features: Tensor, units: Sequence[int] = ()) -> Result:
        of_image = units_within(units, len(features), _MOST_UNITS)
        without = kernel_distance.Compared(features, real, of_image, _kernel).without
        return Result.jackknife(int(of_image.max()) + 1, lambda some: _SCALE * (without(some) + among_real))

    return measure


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (-torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * _SIGMA**2)).exp()


def _pictures(folder: Path, tools: Tools) -> Iterable[Tensor]:
    """The real pictures of a folder, brought to the size of the pictures as for FID."""
    return read_pictures(pictures_in(folder), given(tools.size))
