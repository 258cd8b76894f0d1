"""The pass clock, which counts and times the network passes of a run."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from sdlab.denoiser import Model, Sigma


class PassClock:
    """Counts network passes (one per image and call) and their seconds, in the models that `watch` returns.

    On a GPU each call is followed by a synchronisation, so that its time is measured. Only the bench pays for that.
    """

    def __init__(self) -> None:
        self.passes, self.seconds = 0, 0.0

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

        return timed


def wait(x: Tensor) -> None:
    """Wait until x is computed, if that happens on a GPU."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
