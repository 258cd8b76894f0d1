"""The guided denoiser: a strategy, a model and its contexts combined into the denoiser of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from sdlab.denoiser import Model, Sigma
from sdlab.guidance.base import UNCOND, Level, Query, Strategy, is_adaptive
from sdlab.guidance.predictions import Encode, Predictions
from sdlab.guidance.rows import groups, joined, take
from sdlab.guidance.states import States

Seen = Callable[[Tensor, Sigma], object]  # a guided x̂₀ (B, …) and its level


class Guided:
    """D(x, σ) -> x̂₀ for one run. Batches and counts the queries, and keeps the state of the strategy.

    Build a new one for each run. Images of a batch may be at different levels and need different queries. Each gives
    the same picture and costs the same number of passes as it would alone.

        denoise = Guided(guidance.make("cfg", scale=3.0), model, {"cond": cond, "uncond": uncond})
        x0 = samplers.run(sampler, denoise, x, sigmas)
        denoise.passes                                # network passes per image
    """

    def __init__(
        self,
        strategy: Strategy,
        model: Model,
        contexts: Mapping[str, Tensor],
        seeds: Sequence[int] | None = None,
        encode: Encode | None = None,
        on_denoised: Seen | None = None,
    ) -> None:
        """`contexts` maps the names used in queries to contexts with a row per image, (B, …), or one for all, (1, …).

        `seeds`, one per image, are for strategies with randomness of their own, such as noise on a context. It differs
        from the sampler's noise for the same seeds. `encode` is for strategies with further prompts. Each is encoded
        once. `on_denoised(x0, sigma)` is called with the guided x̂₀ of each call, which it must not modify.

        Raises:
            ValueError: the contexts have different numbers of rows, or rows of different shapes.
        """
        self._images = max(map(len, contexts.values()))
        alike = next(iter(contexts.values())).shape[1:]
        if any(len(one) not in (1, self._images) or one.shape[1:] != alike for one in contexts.values()):
            found = ", ".join(f"{name} {tuple(one.shape)}" for name, one in contexts.items())
            raise ValueError(f"contexts must have a row per image, or one for all, and rows of one shape; got {found}")
        self.strategy = strategy
        self.contexts = {name: one.expand(self._images, *alike) for name, one in contexts.items()}
        self._predict = Predictions(model, self.contexts, seeds, encode, type(strategy).__name__)
        self._states = States(self._images)
        self._held: tuple[bool, ...] = ()  # empty if no image waits
        self._step: float | None = None
        self._on_denoised = on_denoised
        self._all = list(range(self._images))

    @property
    def passes(self) -> float:
        """Network passes per image so far, averaged over the images."""
        return self._predict.rows / self._images

    @property
    def has_state(self) -> bool:
        """Whether the strategy keeps a state, so that predictions depend on the calls before."""
        return any(self._states.begun())

    def begin_step(self, sigma: float) -> None:
        """Called by `samplers.run` before each step, for strategies that decide once per step."""
        self._step = sigma

    def hold(self, images: Sequence[bool]) -> None:
        """Called by samplers whose images take different numbers of calls: which of them wait.

        An image that waits makes no network passes, keeps its state, and its x̂₀ is NaN.
        """
        self._held = tuple(images) if any(images) else ()

    def __call__(self, x: Tensor, sigma: Sigma) -> Tensor:
        """x (B, …) at level σ, a float or one per image (B,) -> the guided x̂₀ in the shape of x."""
        return self._guide(x, sigma)[0]

    def with_uncond(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor]:
        """The guided and the unconditional x̂₀. Costs one more pass if the strategy does not query the latter."""
        x0, predictions = self._guide(x, sigma, also=(UNCOND,))
        return x0, predictions[UNCOND]

    def wanted(self, sigma: Sigma) -> list[tuple[Query, ...]]:
        """The queries of each image that a call at level σ makes."""
        return self._wanted(self._levels(sigma))

    def _levels(self, sigma: Sigma) -> list[Level]:
        """The level of each image."""
        if isinstance(sigma, Tensor):
            return [Level(s, self._step) for s in sigma.tolist()]
        return [Level(sigma, self._step)] * self._images

    def _guide(self, x: Tensor, sigma: Sigma, also: tuple[Query, ...] = ()) -> tuple[Tensor, dict[Query, Tensor]]:
        """The guided x̂₀, and the predictions that it is made from."""
        if len(x) != self._images:
            raise ValueError(f"x has {len(x)} images, but the contexts are for {self._images}; give a row each")
        levels = self._levels(sigma)
        wanted = self._wanted(levels)
        queried = [tuple(dict.fromkeys((*also, *queries))) for queries in wanted] if also else wanted
        if self._held:
            wanted, queried = self._going(wanted), self._going(queried)
        predictions = self._predict(x, sigma, levels, queried)
        guided = []
        for level, queries, rows in self._groups(levels, wanted):
            if not queries:  # these images wait
                continue
            parts = tuple([take(predictions[query], rows) for query in queries])
            x0, state = self.strategy.combine(parts, take(x, rows), level, self._states.of(rows))
            if not isinstance(x0, Tensor) or x0.shape != parts[0].shape:
                found = tuple(x0.shape) if isinstance(x0, Tensor) else type(x0).__name__
                raise ValueError(f"combine turns predictions of shape {tuple(parts[0].shape)} into {found}")
            guided.append((rows, x0))
            self._states.keep(rows, state)
        x0 = joined(guided, x.shape[0])
        if self._on_denoised is not None:
            self._on_denoised(x0, sigma)
        return x0, predictions

    def _wanted(self, levels: Sequence[Level]) -> list[tuple[Query, ...]]:
        """The queries of each image."""
        strategy = self.strategy
        if is_adaptive(strategy):
            return [tuple(strategy.queries_given(*one)) for one in zip(levels, self._states.each(), strict=True)]
        if _one(levels):
            return [tuple(strategy.queries(levels[0]))] * len(levels)
        at = {level: tuple(strategy.queries(level)) for level in dict.fromkeys(levels)}
        return [at[level] for level in levels]

    def _going(self, queried: Sequence[tuple[Query, ...]]) -> list[tuple[Query, ...]]:
        """The same queries, and none of images that wait."""
        return [() if held else queries for held, queries in zip(self._held, queried, strict=True)]

    def _groups(
        self, levels: Sequence[Level], wanted: Sequence[tuple[Query, ...]]
    ) -> Iterable[tuple[Level, tuple[Query, ...], list[int]]]:
        """The images that are combined together: their level, their queries and their rows."""
        if _one(levels) and _one(wanted) and self._states.together:
            return [(levels[0], wanted[0], self._all)]
        found = groups(zip(levels, self._states.begun(), wanted, strict=True))
        return [(level, queries, rows) for (level, _, queries), rows in found.items()]


def _one(values: Sequence[object]) -> bool:
    """Whether all are equal. This is quick if they are one object."""
    return values.count(values[0]) == len(values)
