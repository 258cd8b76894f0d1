"""The ends of the probability flow, with which the reference error compares samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import samplers
from samplers.exact.reference import CONVERGING, fine_grid
from sdlab import guidance
from sdlab.backends.base import Backend
from sdlab.sweep.axes import GUIDANCE
from sdlab.sweep.cell import Choice, canonical


def span(sigmas: Sequence[float], levels: samplers.Levels) -> tuple[float, ...]:
    """The levels that grids of a model share: both ends, and the lowest level before a step to 0."""
    first, last = sigmas[0], sigmas[-1]
    return (first, last) if last > 0 or first <= levels.sigma_min else (first, levels.sigma_min, 0.0)


def shared(strategy: Choice, ends: Sequence[float]) -> str:
    """A key that is equal for cells measured against the same ends of the flow."""
    return canonical([strategy.complete(GUIDANCE), ends])


class FlowEnds:
    """The ends of the flow for all images of a plan, computed once per guidance strategy.

    It is exact if the model has its exact flow. Otherwise it is a fine run (`samplers.converged`) to the lowest level
    of the model, followed by one step to 0, as in the samplers.
    """

    def __init__(
        self,
        backend: Backend,
        contexts: Callable[[list[int]], tuple[Tensor, Tensor]],
        batches: Sequence[list[int]],
        seed: int,
        steps: int,
    ) -> None:
        """`contexts` returns the contexts of given images. `batches` are all images. Image i has seed `seed` + i.

        `steps` are those of the fine run.
        """
        self._backend, self._contexts, self._batches, self._seed = backend, contexts, batches, seed
        self._steps = steps
        self._known: dict[str, Tensor] = {}

    def of(self, strategy: Choice, sigmas: Sequence[float], on_step: Callable[[], object] = lambda: None) -> Tensor:
        """The ends (N, …) for a strategy and a grid, in the order of the batches. Each step calls `on_step`."""
        ends = span(sigmas, self._backend.levels)
        key = shared(strategy, ends)
        if key not in self._known:
            self._known[key] = torch.cat([self._run(strategy, ends, indices, on_step) for indices in self._batches])
        return self._known[key]

    def _run(
        self, strategy: Choice, ends: Sequence[float], indices: list[int], on_step: Callable[[], object]
    ) -> Tensor:
        seeds = [self._seed + i for i in indices]
        on_step()
        if (exact := self._backend.flow(seeds, ends[0], ends[-1])) is not None:
            return exact
        return self._backend.sample(
            *self._contexts(indices),
            CONVERGING,
            fine_grid(ends, self._steps),
            guidance.make(strategy.name, **strategy.options),
            seeds,
            on_step=lambda *_: on_step(),
        )
