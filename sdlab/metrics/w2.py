"""The exact 2-Wasserstein distance between a sampler's law and Gaussian data."""

from __future__ import annotations

from collections.abc import Iterator

from samplers.exact import law
from sdlab.metrics.base import SAMPLES, Batch, Complaint, Meter, Metric, Result, Run, Subject, Tools, given
from sdlab.system.errors import RunError


class W2(Metric):
    """W₂ between the data and the sampler's output from pure noise, both Gaussian. Independent of the seeds."""

    name = "w2"
    label = "W₂ (exact)"
    better = "lower"
    digits = 2
    about = "2-Wasserstein (Fréchet) distance between the laws of samples and data, for a Gaussian model"
    needs = SAMPLES
    per_image = False
    powers = True

    def check(self, subject: Subject) -> Iterator[Complaint]:
        """The law of the data must be known."""
        if not subject.gaussian:
            yield "metrics", f'needs a model with Gaussian data, like "gaussian", but those of {subject.name} are not'

    def open(self, tools: Tools) -> Meter:
        """Nothing is loaded."""
        return _OfLaws()


class _OfLaws:
    def start(self, run: Run) -> _OfLaw:
        return _OfLaw(run)


class _OfLaw:
    def __init__(self, run: Run) -> None:
        self._run = run

    def update(self, batch: Batch) -> None:
        """Ignore the samples; their law is known."""

    def result(self) -> Result:
        sampler, data, sigmas = given(self._run.sampler), given(self._run.law), self._run.sigmas
        try:
            return Result(law.distance(sampler, data, sigmas, law.noise_at(data, sigmas[0])))
        except law.NoLawError as error:
            raise RunError(f"w2: {error}") from None
