"""Class probability: how certain it is that a sample belongs to its class."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from samplers.exact.families import ClassMixture
from sdlab.metrics.base import SAMPLES, Accumulator, Batch, Complaint, Meter, Metric, Run, Subject, Tools, Values, given
from sdlab.metrics.mmd import check_classes


class ClassProbability(Metric):
    """p(c | x₀), the exact probability of its class given a sample, among all classes of an exact mixture.

    It is to exact models what prompt accuracy is to pictures.
    """

    name = "class_probability"
    label = "class probability"
    better = "higher"
    digits = 3
    about = "exact probability of the class of a sample, for an exact mixture"
    needs = SAMPLES
    share = True

    def check(self, subject: Subject) -> Iterator[Complaint]:
        """The laws of the classes must be known."""
        return check_classes(subject)

    def open(self, tools: Tools) -> Meter:
        """Nothing is loaded."""
        return _OfClasses()


class _OfClasses:
    def start(self, run: Run) -> Accumulator:
        classes = given(run.classes)

        def measure(batch: Batch) -> Tensor:
            return class_probability(given(batch.samples), torch.tensor(list(batch.indices)), classes)

        return Values(measure)


def class_probability(samples: Tensor, indices: Tensor, classes: ClassMixture) -> Tensor:
    """The probability of class i mod C of each sample (B, …), whose index is i, (B,)."""
    found = classes.class_given(samples.double().cpu(), 0.0)
    return found.gather(1, (indices % found.shape[1])[:, None])[:, 0]
