"""The pass clock, which counts and times the network passes of a run."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from sdlab.denoiser import Model, Sigma
from sdlab.sweep.first_calls import FirstCalls


class PassClock:
    """Counts network passes (one per image and call) and their seconds, in the models that `watch` returns.

    On a GPU each call is followed by a synchronisation, so that its time is measured. Only the bench pays for that.
    """

    def __init__(self, first: FirstCalls | None = None) -> None:
        """With `first`, a run whose first call is among these takes its result from there, and is charged its time."""
        self.passes, self.seconds = 0, 0.0
        self.saved = 0.0  # seconds that are charged and were not spent
        self._first = first

    def watch(self, model: Model) -> Model:
        """The same model, counted and timed."""

        def timed(x: Tensor, sigma: Sigma, context: Tensor, **options: Any) -> Tensor:
            wait(x)
            start = perf_counter()
            x0 = model(x, sigma, context, **options)
            wait(x)
            self.seconds += perf_counter() - start
            self.passes += len(x)
            return x0

        def shared(x: Tensor, sigma: Sigma, context: Tensor, **options: Any) -> Tensor:
            calls, self._first = self._first, None
            if calls is None or options or x.requires_grad:
                return timed(x, sigma, context, **options)
            if (known := calls.find(x, sigma, context)) is not None:
                self.seconds += known.seconds
                self.saved += known.seconds
                self.passes += len(x)
                return known.x0.clone()
            before = self.seconds
            x0 = timed(x, sigma, context)
            calls.keep(x, sigma, context, x0, self.seconds - before)
            return x0

        return timed if self._first is None else shared


def wait(x: Tensor) -> None:
    """Wait until x is computed, if that happens on a GPU."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
