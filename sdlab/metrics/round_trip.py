"""Metrics of a round trip: samples that are inverted and drawn again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from sdlab.metrics.base import SAMPLES, Accumulator, Complaint, Meter, Metric, Run, Subject, Tools, Values, given
from sdlab.metrics.reference_error import distance


class RoundTripMetric(Metric):
    """The RMS distance of each sample to itself after a round trip, with the sampler, grid and guidance of its cell."""

    better = "lower"
    digits = 2
    needs = SAMPLES
    powers = True

    @property
    @abstractmethod
    def keeps_memory(self) -> bool:
        """Whether the way back begins with the memory of the inversion as well as the noise."""

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
