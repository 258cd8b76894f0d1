"""Reference error: the distance of samples to the exact probability flow from the same noise."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from sdlab.metrics.base import SAMPLES, Accumulator, Complaint, Meter, Metric, Run, Subject, Tools, Values, given


class ReferenceError(Metric):
    """The RMS distance of each sample to the end of its flow: the error of sampler and grid alone.

    The flow of an exact model is exact. That of a network is a fine run of UniPC-3 whose steps are even in log σ: 500,
    or `reference_steps` in the sweep file.
    """

    name = "reference_error"
    label = "reference error"
    better = "lower"
    digits = 2
    about = "root-mean-square distance to the end of the probability flow from the same noise, of latents or samples"
    needs = SAMPLES
    powers = True

    def check(self, subject: Subject) -> Iterator[Complaint]:
        """The flow must start from noise."""
        if not subject.from_noise:
            yield "metrics", "needs samples that start from noise, but these start from pictures"

    def open(self, tools: Tools) -> Meter:
        """Nothing is loaded."""
        return _ToFlowEnds()


class _ToFlowEnds:
    def start(self, run: Run) -> Accumulator:
        ends = given(run.flow_ends)()
        return Values(lambda batch: distance(given(batch.samples), ends[list(batch.indices)]))


def distance(samples: Tensor, ends: Tensor) -> Tensor:
    """The RMS difference per sample: two tensors (N, …) -> (N,), float64."""
    return (samples.double() - ends.double()).flatten(1).square().mean(1).sqrt()
