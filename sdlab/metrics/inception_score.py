"""The Inception score: how certain the class of each picture is, and how many classes there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sdlab.metrics import inception
from sdlab.metrics.base import PICTURES, Batch, Complaint, Meter, Metric, Result, Subject, Tools
from sdlab.metrics.features import FEWEST, Gathering, units_within
from sdlab.metrics.files import MetricFiles

_MOST_UNITS = 256  # of the jackknife


class InceptionScore(Metric):
    """exp(E KL(p(y|x) ‖ p(y))) of Inception's class probabilities (Salimans et al. 2016, arXiv:1606.03498, sec. 4).

    Real pictures are not used, so it cannot tell whether pictures look like them, and it is meant for pictures of
    ImageNet's classes. The probabilities are those of torch-fidelity: a softmax over 1008 logits without their bias.
    The score is that of all pictures at once. Papers often print the mean over ten parts, which is lower (Barratt and
    Sharma 2018, arXiv:1801.01973). It is biased downwards for few images. The lab's readers predict many attributes
    rather than one class, so it needs Inception's weights.
    """

    name = "inception_score"
    label = "Inception score"
    better = "higher"
    digits = 2
    per_image = False
    biased = True
    extrapolates = True
    about = "how certain and how diverse Inception's classes are; needs its weights from [metric_files]"
    needs = PICTURES
    reads = frozenset({"inception"})

    def preparation(self, files: MetricFiles) -> str:
        """Inception resizes pictures itself."""
        return inception.RESIZED

    def missing(self, files: MetricFiles) -> Iterator[Complaint]:
        """The missing weights or package."""
        if files.inception is None:
            yield "metrics", "needs Inception's class probabilities; name its weights as inception in [metric_files]"
        else:
            yield from inception.missing_network(files.inception)

    def check(self, subject: Subject) -> Iterator[Complaint]:
        """Whether there are enough pictures."""
        if subject.images < FEWEST:
            yield "metrics", f"needs at least {FEWEST} images per cell, got {subject.images}"

    def content(self, files: MetricFiles) -> Iterable[Path]:
        """The weights."""
        return [] if files.inception is None else [Path(files.inception)]

    def open(self, tools: Tools) -> Meter:
        """Load Inception."""
        network = tools.shared(inception.load)

        def logits(batch: Batch) -> Tensor:
            return network.logits(batch.once(network.batch))

        return Gathering(logits, estimate)


def estimate(logits: Tensor, units: Sequence[int] = ()) -> Result:
    """The score of logits (n, K), with its jackknife over `units` (n,), by default the images.

    With p̄ the mean of p, E KL(p ‖ p̄) is the entropy of p̄ minus the mean entropy of p.
    """
    of_image = units_within(units, len(logits), _MOST_UNITS)
    p, sizes = logits.double().softmax(1), of_image.bincount().double()
    uncertainty = torch.special.entr(p).sum(1)
    sums = torch.zeros(len(sizes), p.shape[1]).double().index_add_(0, of_image, p)
    entropies = torch.zeros(len(sizes)).double().index_add_(0, of_image, uncertainty)
    total, entropy, n = sums.sum(0), entropies.sum(), sizes.sum()

    def without(some: Sequence[int]) -> float:
        gone = list(some)
        left = n - sizes[gone].sum()
        mean = ((total - sums[gone].sum(0)) / left).clamp(min=0)
        return float((torch.special.entr(mean).sum() - (entropy - entropies[gone].sum()) / left).exp())

    return Result.jackknife(len(sizes), without)
