"""The probability flow from the noise of each image: its ends, and some of its states on the way.

The reference error compares samples with the ends, and the error along σ compares the states of a cell with the flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

import samplers
from samplers.exact.dense import Dense
from samplers.exact.reference import CONVERGING, fine_grid
from samplers.grids.fitted import FOLLOWING, Paths, Recording, joined
from sdlab import guidance
from sdlab.backends.base import Backend
from sdlab.sweep.axes import GUIDANCE
from sdlab.sweep.cell import Choice, canonical

FOLLOWED = 32  # images whose states on the way are kept
S = TypeVar("S", bound=samplers.Sampler)


def span(sigmas: Sequence[float], levels: samplers.Levels) -> tuple[float, ...]:
    """The levels that grids of a model share: both ends, and the lowest level before a step to 0."""
    first, last = sigmas[0], sigmas[-1]
    return (first, last) if last > 0 or first <= levels.sigma_min else (first, levels.sigma_min, 0.0)


def shared(strategy: Choice, ends: Sequence[float]) -> str:
    """A key that is equal for cells measured against the same ends of the flow."""
    return canonical([strategy.complete(GUIDANCE), ends])


class FlowEnds:
    """The ends of the flow for all images of a plan, computed once per guidance strategy.

    For the first `FOLLOWED` images there are also its states at the levels of all cells.

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
        runs: Iterable[tuple[Choice, Sequence[float]]] = (),
    ) -> None:
        """`contexts` returns the contexts of given images. `batches` are all images. Image i has seed `seed` + i.

        `steps` are those of the fine run. `runs` are the strategies and grids of cells whose states are compared.
        """
        self._backend, self._contexts, self._batches, self._seed = backend, contexts, batches, seed
        self._steps = steps
        self._known: dict[str, Tensor] = {}
        self._wanted: dict[str, set[float]] = {}
        self._states: dict[str, dict[float, Tensor]] = {}
        for strategy, sigmas in runs:
            self._wanted.setdefault(self._key(strategy, sigmas), set()).update(sigmas[1:-1])

    def _key(self, strategy: Choice, sigmas: Sequence[float]) -> str:
        return shared(strategy, span(sigmas, self._backend.levels))

    def of(self, strategy: Choice, sigmas: Sequence[float], on_step: Callable[[], object] = lambda: None) -> Tensor:
        """The ends (N, …) for a strategy and a grid, in the order of the batches. Each step calls `on_step`."""
        ends = span(sigmas, self._backend.levels)
        key = shared(strategy, ends)
        if key not in self._known:
            found = [self._run(strategy, ends, self._wanted.get(key, ()), some, on_step) for some in self._batches]
            self._known[key] = torch.cat([last for last, _ in found])
            parts = [states for _, states in found if states]
            levels = parts[0] if parts else ()
            self._states[key] = {level: torch.cat([states[level] for states in parts]) for level in levels}
        return self._known[key]

    def along(self, strategy: Choice, sigmas: Sequence[float]) -> dict[float, Tensor]:
        """The states (M, …) of the first M = min(N, `FOLLOWED`) images at the levels of a grid, in its order.

        The first level, where all start, is left out, and so are levels that the fine run does not reach.
        """
        ends, known = self.of(strategy, sigmas), self._states[self._key(strategy, sigmas)]
        inner = {level: known[level] for level in sigmas[1:-1] if level in known}
        return {**inner, sigmas[-1]: ends[:FOLLOWED]}

    def paths(self, strategy: Choice, sigmas: Sequence[float]) -> Paths:
        """The paths of all images from the first of these levels to the last above 0, and one step to 0.

        `sigmas` are fine levels. The predictions are those of the guided model, one for each level.
        """
        positive = [sigma for sigma in sigmas if sigma > 0]
        runs = self.runs(strategy, sigmas, lambda: Recording(FOLLOWING))
        return joined([recording.paths(positive) for recording in runs])

    def runs(
        self,
        strategy: Choice,
        sigmas: Sequence[float],
        make: Callable[[], S],
        on_step: Callable[[], object] = lambda: None,
    ) -> Iterator[S]:
        """Run a sampler over each batch of images, and yield it. Each step calls `on_step`."""
        for indices in self._batches:
            sampler = make()
            self._backend.sample(
                *self._contexts(indices),
                sampler,
                sigmas,
                guidance.make(strategy.name, **strategy.options),
                [self._seed + i for i in indices],
                on_step=lambda i, x: on_step(),
            )
            yield sampler

    def _run(
        self,
        strategy: Choice,
        ends: Sequence[float],
        wanted: Iterable[float],
        indices: list[int],
        on_step: Callable[[], object],
    ) -> tuple[Tensor, dict[float, Tensor]]:
        """The ends of the flow of these images, and the states of those that are followed, by level."""
        seeds = [self._seed + i for i in indices]
        first = sum(i < FOLLOWED for i in indices)
        on_step()
        if (exact := self._backend.flow(seeds, ends[0], ends[-1])) is not None:
            flows = {level: self._backend.flow(seeds[:first], ends[0], level) for level in wanted if first}
            return exact, {level: states for level, states in flows.items() if states is not None}
        fine = fine_grid(ends, self._steps)
        dense = Dense(fine, wanted if first else ())

        def follow(i: int, x: Tensor) -> None:
            on_step()
            dense.add(i, x[:first])

        last = self._backend.sample(
            *self._contexts(indices),
            CONVERGING,
            fine,
            guidance.make(strategy.name, **strategy.options),
            seeds,
            on_step=follow,
        )
        return last, dense.states
