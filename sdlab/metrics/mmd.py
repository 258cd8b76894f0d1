"""The exact kernel distance between samples and the law of their class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from samplers.exact.families import ClassMixture
from samplers.exact.problems import GaussianMixture
from sdlab.metrics.base import SAMPLES, Batch, Complaint, Meter, Metric, Result, Rows, Run, Subject, Tools, given
from sdlab.metrics.jackknife import FEWEST


class Mmd(Metric):
    """The squared maximum mean discrepancy between samples and the law of their class, a Gaussian mixture.

    The kernel is exp(−|x − y|²/2h²), with h the root-mean-square std of the components. Its means over the law are in
    closed form, so no sample of the data is drawn. It is unbiased, 0 on average for samples of the law, and can be
    negative. The value is the mean over classes (Gretton et al. 2008, arXiv:0805.2368, sec. 2).
    """

    name = "mmd"
    label = "MMD² (exact)"
    better = "lower"
    digits = 4
    about = "squared kernel distance between samples and the exact law of their class, for an exact mixture"
    needs = SAMPLES
    per_image = False

    def check(self, subject: Subject) -> Iterator[Complaint]:
        """The laws of the classes must be known, and each class must have enough samples."""
        yield from check_classes(subject)
        if subject.images < (least := FEWEST * subject.classes):
            yield "metrics", f"needs at least {least} images per cell, {FEWEST} of each class, got {subject.images}"

    def open(self, tools: Tools) -> Meter:
        """Nothing is loaded."""
        return _OfClasses()


def check_classes(subject: Subject) -> Iterator[Complaint]:
    """A complaint unless the laws of the classes are known."""
    if not subject.classes:
        yield (
            "metrics",
            f'needs a model whose classes have a known law, like "class_mixture", and {subject.name} has none',
        )


class _OfClasses:
    def start(self, run: Run) -> _Samples:
        return _Samples(given(run.classes))


class _Samples:
    """The samples of a cell. Image i is of class i mod C."""

    def __init__(self, classes: ClassMixture) -> None:
        self._classes, self._rows = classes, Rows()

    def update(self, batch: Batch) -> None:
        self._rows.add(batch.indices, given(batch.samples).flatten(1))

    def result(self) -> Result:
        return estimate(self._rows.sorted(), self._classes)


def estimate(samples: Tensor, classes: ClassMixture) -> Result:
    """The distance of samples (n, d), with its jackknife.

    The samples are left out in the order of their classes. Neighbours are then of one class, as the jackknife needs to
    see their interaction.
    """
    labels = sorted(set(classes.labels))
    parts = [Distance(samples[k :: len(labels)], classes.given(label)) for k, label in enumerate(labels)]
    places = [(part, row) for part in parts for row in range(len(part))]
    whole = sum(part.without([]) for part in parts)

    def without(some: Sequence[int]) -> float:
        gone: dict[Distance, list[int]] = {}
        for unit in some:
            part, row = places[unit]
            gone.setdefault(part, []).append(row)
        return (whole + sum(part.without(rows) - part.without([]) for part, rows in gone.items())) / len(parts)

    return Result.jackknife(len(samples), without)


class Distance:
    """The squared distance between samples (n, d) and a law, or between some of them and it."""

    def __init__(self, samples: Tensor, law: GaussianMixture) -> None:
        x, means = samples.double(), law.means.flatten(1).double()
        variances = torch.as_tensor(law.stds).double().square().expand(len(means))
        shares = torch.ones(len(means)).double() if law.weights is None else law.weights.double()
        shares = shares / shares.sum()
        width = float((shares * variances).sum())  # h²
        self._pairs = _kernel(x, x, torch.zeros(1).double(), width).fill_diagonal_(0)
        self._sums = self._pairs.sum(1)
        self._all_pairs = float(self._sums.sum())
        self._with_law = _kernel(x, means, variances, width) @ shares
        self._all_with_law = float(self._with_law.sum())
        self._within_law = float(shares @ _kernel(means, means, variances + variances[:, None], width) @ shares)

    def __len__(self) -> int:
        return len(self._pairs)

    def without(self, gone: list[int]) -> float:
        """The unbiased estimate without these samples."""
        n = len(self) - len(gone)
        pairs = self._all_pairs - 2 * float(self._sums[gone].sum()) + float(self._pairs[gone][:, gone].sum())
        with_law = self._all_with_law - float(self._with_law[gone].sum())
        return pairs / (n * (n - 1)) - 2 * with_law / n + self._within_law


def _kernel(a: Tensor, b: Tensor, variance: Tensor, width: float) -> Tensor:
    """E exp(−|x − y|²/2h²) for h² = `width` and x − y of N(a − b, `variance` I), for a (n, d) and b (m, d), (n, m)."""
    total = width + variance
    return (width / total) ** (a.shape[1] / 2) * (-torch.cdist(a, b).square() / (2 * total)).exp()
