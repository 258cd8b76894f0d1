"""Round-trip error: how far samples come back from where they were when they are inverted and drawn again."""

from __future__ import annotations

from collections.abc import Iterator

from sdlab.metrics.base import SAMPLES, Accumulator, Complaint, Meter, Metric, Run, Subject, Tools, Values, given
from sdlab.metrics.reference_error import distance


class RoundTripError(Metric):
    """The RMS distance of each sample to itself, inverted and drawn again with the sampler, grid and guidance of its
    cell.

    The way back begins with all that the inversion returns: the noise, and the second state of a sampler that has one.
    The network passes of the round trip are not among those of the cell.
    """

    name = "round_trip_error"
    label = "round-trip error"
    better = "lower"
    digits = 2
    about = "root-mean-square distance of samples to themselves, inverted and drawn again, of latents or samples"
    needs = SAMPLES
    powers = True
    keeps_memory = True

    def check(self, subject: Subject) -> Iterator[Complaint]:
        """All images must take the whole grid."""
        if not subject.from_noise:
            yield "metrics", "needs samples that start from noise, but these start from pictures"

    def open(self, tools: Tools) -> Meter:
        """Nothing is loaded."""
        return _ToThemselves(self.keeps_memory)


class _ToThemselves:
    def __init__(self, keeps_memory: bool) -> None:
        self._keeps_memory = keeps_memory

    def start(self, run: Run) -> Accumulator:
        again = given(run.round_trip)
        return Values(
            lambda batch: distance(given(batch.samples), again(batch.indices, given(batch.samples), self._keeps_memory))
        )
