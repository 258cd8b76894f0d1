"""Sampling with predictions that come from outside, one at a time.

A step is run again for every call it makes, with the predictions so far, until it asks for one that is not there yet.
Steps are pure, which makes that possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import samplers
from samplers.base import PathNoise, Sampler


class _Needed(BaseException):
    """A step asks for a prediction that is not there yet."""

    def __init__(self, x: Tensor, sigma: float) -> None:
        self.x, self.sigma = x, sigma


@dataclass
class Stepwise:
    """A run whose predictions come from outside. `needed` is (x, σ) of the next one."""

    sampler: Sampler
    sigmas: Sequence[float]
    noise: samplers.Noise
    index: int = 0
    memory: Any = None
    predictions: list[Tensor] = field(default_factory=list)  # of the present step
    draws: list[Tensor] = field(default_factory=list)  # of noise, in the present step
    needed: tuple[Tensor, float] = (torch.empty(0), 0.0)

    def start(self, x: Tensor) -> None:
        """Begin at x, at the first level."""
        self.x, self.memory = x, self.sampler.prepare(tuple(self.sigmas))
        self._advance()

    def replace(self, x: Tensor) -> None:
        """Go on from other latents.

        Raises:
            ValueError: a step has begun.
        """
        if self.predictions:
            raise ValueError("the latents were changed between two network calls of one step")
        self.x, self.draws = x, []
        self._advance()

    def answer(self, predicted: Tensor) -> tuple[Tensor, float]:
        """Take the prediction for `needed`. Returns the next `needed`, or the final x and the last level.

        Raises:
            ValueError: no prediction is needed any more.
        """
        if self.index == len(self.sigmas) - 1:
            raise ValueError("all steps are done; call set_timesteps to begin again")
        self.predictions.append(predicted)
        self._advance()
        return self.needed

    def _advance(self) -> None:
        while self.index < len(self.sigmas) - 1:
            sigma, after = self.sigmas[self.index : self.index + 2]
            ready = iter(self.predictions)

            def denoise(x: Tensor, at: float, ready: Any = ready) -> Tensor:
                for prediction in ready:
                    return prediction
                raise _Needed(x, float(at))

            try:
                self.x, self.memory = self.sampler.step(
                    denoise, self.x, sigma, after, self.memory, _Replayed(self.noise, self.draws)
                )
            except _Needed as call:
                self.needed = call.x, call.sigma
                return
            self.index, self.predictions, self.draws = self.index + 1, [], []
        self.needed = self.x, self.sigmas[-1]


class _Replayed:
    """Noise whose draws are kept, so that a step that is run again gets the same."""

    def __init__(self, noise: samplers.Noise, draws: list[Tensor]) -> None:
        self._noise, self._draws, self._used = noise, draws, 0
        if isinstance(noise, PathNoise):
            self.between = noise.between

    def __call__(self, like: Tensor, /) -> Tensor:
        if self._used == len(self._draws):
            self._draws.append(self._noise(like))
        self._used += 1
        return self._draws[self._used - 1]


def calls(sampler: Sampler, sigmas: Sequence[float]) -> list[list[float]]:
    """The levels of the denoiser calls of each step.

    Raises:
        ValueError: they are not known before the run, or the sampler needs more than predictions.
    """
    if sampler.nfe(sigmas) is None:
        raise ValueError(f"{type(sampler).__name__} is adaptive, and a pipeline needs to know its timesteps before")
    calls: list[list[float]] = [[]]

    def denoise(x: Tensor, sigma: float) -> Tensor:
        calls[-1].append(float(sigma))
        return torch.zeros_like(x)

    one = torch.ones(1, 1, dtype=torch.float64)
    samplers.run(sampler, denoise, one, sigmas, noise=torch.zeros_like, on_step=lambda *_: calls.append([]))
    return calls[:-1]
