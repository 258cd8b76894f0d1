"""The guided denoiser: a strategy, a model and its contexts combined into the denoiser of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import hypot, nan, sqrt

import torch
from torch import Tensor

import samplers
from samplers.checks import look_up
from sdlab.denoiser import Model, Sigma
from sdlab.guidance.base import UNCOND, ContextNoise, Level, Query, State, Strategy, is_adaptive

_Key = tuple[Level, bool, tuple[Query, ...]]


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
    ) -> None:
        """`contexts` maps the names used in queries to contexts with a row per image, (B, …), or one for all, (1, …).

        `seeds`, one per image, are for strategies that add noise to a context. That noise differs from the sampler's
        noise for the same seeds.

        Raises:
            ValueError: the contexts have different numbers of rows, or rows of different shapes.
        """
        self._images, self._rows = max(map(len, contexts.values())), 0
        alike = next(iter(contexts.values())).shape[1:]
        if any(len(one) not in (1, self._images) or one.shape[1:] != alike for one in contexts.values()):
            found = ", ".join(f"{name} {tuple(one.shape)}" for name, one in contexts.items())
            raise ValueError(f"contexts must have a row per image, or one for all, and rows of one shape; got {found}")
        self.strategy = strategy
        self.contexts = {name: one.expand(self._images, *alike) for name, one in contexts.items()}
        self._model: Callable[..., Tensor] = model  # takes keywords if a query needs them
        self._states: list[State] = [None] * self._images  # per image, without the batch axis
        self._streams = [samplers.philox([seed]) for seed in seeds or ()]  # the sampler's noise is not Philox noise
        self._step: float | None = None

    @property
    def passes(self) -> float:
        """Network passes per image so far, averaged over the images."""
        return self._rows / self._images

    def begin_step(self, sigma: float) -> None:
        """Called by `samplers.run` before each step, for strategies that decide once per step."""
        self._step = sigma

    def __call__(self, x: Tensor, sigma: Sigma) -> Tensor:
        """x (B, …) at level σ, a float or one per image (B,) -> the guided x̂₀ in the shape of x."""
        return self._guide(x, sigma)[0]

    def with_uncond(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor]:
        """The guided and the unconditional x̂₀. Costs one more pass if the strategy does not query the latter."""
        x0, predictions = self._guide(x, sigma, also=(UNCOND,))
        return x0, predictions[UNCOND]

    def _guide(self, x: Tensor, sigma: Sigma, also: tuple[Query, ...] = ()) -> tuple[Tensor, dict[Query, Tensor]]:
        """The guided x̂₀, and the predictions from `_predict`."""
        levels = [Level(s, self._step) for s in (sigma.tolist() if isinstance(sigma, Tensor) else [sigma] * len(x))]
        wanted = self._wanted(levels)
        queried = [tuple(dict.fromkeys((*also, *queries))) for queries in wanted]
        predictions = self._predict(x, sigma, levels, queried)
        begun = [state is not None for state in self._states]
        guided = []
        for (level, _, queries), rows in _groups(zip(levels, begun, wanted, strict=True)).items():
            parts = tuple(_take(predictions[query], rows) for query in queries)
            state = _stacked([self._states[i] for i in rows])
            x0, state = self.strategy.combine(parts, _take(x, rows), level, state)
            if not isinstance(x0, Tensor) or x0.shape != parts[0].shape:
                found = tuple(x0.shape) if isinstance(x0, Tensor) else type(x0).__name__
                raise ValueError(f"combine turns predictions of shape {tuple(parts[0].shape)} into {found}")
            guided.append((rows, x0))
            for i, row in zip(rows, _rows_of(state, len(rows)), strict=True):
                self._states[i] = row
        return _joined(guided, x), predictions

    def _wanted(self, levels: Sequence[Level]) -> list[tuple[Query, ...]]:
        """The queries of each image."""
        strategy = self.strategy
        if is_adaptive(strategy):
            return [tuple(strategy.queries_given(*one)) for one in zip(levels, self._states, strict=True)]
        at = {level: tuple(strategy.queries(level)) for level in dict.fromkeys(levels)}
        return [at[level] for level in levels]

    def _predict(
        self, x: Tensor, sigma: Sigma, levels: Sequence[Level], queried: Sequence[tuple[Query, ...]]
    ) -> dict[Query, Tensor]:
        """x̂₀ (B, …) of each query, from one call of each network, with NaN for images without that query."""
        images: dict[Query, list[int]] = {}
        for i, queries in enumerate(queried):
            for query in queries:
                images.setdefault(query, []).append(i)
        found: dict[Query, Tensor] = {}
        for network in dict.fromkeys(query.network for query in images):
            rows = {query: rows for query, rows in images.items() if query.network == network}
            asked = [_Asked(query, _take(x, mine), [levels[i] for i in mine]) for query, mine in rows.items()]
            parts = self._ask(network, rows, asked, sigma)
            found |= {
                query: _joined([(mine, one.prediction(part))], x)
                for (query, mine), one, part in zip(rows.items(), asked, parts, strict=True)
            }
        return found

    def _ask(
        self, network: str | None, images: Mapping[Query, list[int]], asked: Sequence[_Asked], sigma: Sigma
    ) -> Sequence[Tensor]:
        """What one network returns for each query, from one call."""
        perturbation = tuple(query.perturbation for query, rows in images.items() for _ in rows)
        options: dict[str, object] = {} if network is None else {"network": network}
        if any(perturbation):
            options["perturbation"] = perturbation
        if any(one is not None and one.point == "cross_attention" for one in perturbation):
            options["negative"] = torch.cat([self._named(query.negative, rows) for query, rows in images.items()])
        x = torch.cat([one.seen for one in asked])
        if isinstance(sigma, Tensor) or any(query.label is not None for query in images):
            like = sigma if isinstance(sigma, Tensor) else x
            sigma = like.new_tensor([level for one in asked for level in one.told])
        contexts = torch.cat([self._context(query, rows) for query, rows in images.items()])
        found = self._model(x, sigma, contexts, **options)
        self._rows += len(perturbation)
        return found.split([len(rows) for rows in images.values()])

    def _named(self, name: str, rows: list[int]) -> Tensor:
        return _take(look_up("context", name, self.contexts), rows)

    def _context(self, query: Query, rows: list[int]) -> Tensor:
        """The contexts of a query for these images, with its noise.

        Raises:
            ValueError: there is no such context, or the noise has no seeds or would be added to class labels.
        """
        context = self._named(query.context, rows)
        if query.noise is None:
            return context
        if not context.is_floating_point():
            raise ValueError(
                f"{type(self.strategy).__name__} adds noise to the condition, which class labels cannot have"
            )
        if not self._streams:
            raise ValueError(
                f"{type(self.strategy).__name__} adds noise to the condition and needs `seeds`, one per image"
            )
        white = torch.cat([self._streams[i](context[[k]]) for k, i in enumerate(rows)])
        return _noised(context, white, query.noise)


class _Asked:
    """What the network gets for one query, and how its x̂₀ follows."""

    def __init__(self, query: Query, x: Tensor, levels: Sequence[Level]) -> None:
        self._x, self._levels, self._label = x, levels, query.label
        self.told = levels if query.label is None else [query.label] * len(levels)
        self.seen = (
            x if query.label is None else x * self._column([hypot(1, query.label) / hypot(1, s) for s in levels])
        )

    def prediction(self, found: Tensor) -> Tensor:
        """x̂₀ at the level of x, of the ε that the model found at the label."""
        if self._label is None:
            return found
        return self._x - self._column([s / self._label for s in self._levels]) * (self.seen - found)

    def _column(self, values: Sequence[float]) -> Tensor:
        return self._x.new_tensor(values).view(-1, *[1] * (self._x.dim() - 1))


def _noised(context: Tensor, white: Tensor, noise: ContextNoise) -> Tensor:
    """A context (B, …) with noise; see `ContextNoise`."""
    y = context.flatten(1)
    noisy = sqrt(noise.keep) * y + noise.size * sqrt(1 - noise.keep) * white.flatten(1)
    spread, mean = torch.std_mean(noisy, dim=1, correction=0, keepdim=True)
    wanted, center = torch.std_mean(y, dim=1, correction=0, keepdim=True)
    # A context of one value has no spread, and keeps its noise.
    like_y = torch.where(spread > 0, center + (noisy - mean) * wanted / spread, noisy)
    return torch.lerp(noisy, like_y, noise.rescale).view_as(context)


def _take(values: Tensor, rows: list[int]) -> Tensor:
    """The given rows, in ascending order. All rows are returned without a copy."""
    return values if len(rows) == len(values) else values[rows]


def _joined(parts: Sequence[tuple[list[int], Tensor]], like: Tensor) -> Tensor:
    """Parts with their row indices, as one tensor in the shape of `like`. Other rows are NaN."""
    if len(parts[0][0]) == len(like):
        return parts[0][1]
    whole = parts[0][1].new_full(like.shape, nan)
    for rows, part in parts:
        whole[rows] = part
    return whole


def _groups(keys: Iterable[_Key]) -> dict[_Key, list[int]]:
    """The indices at which each key occurs."""
    found: dict[_Key, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return found


def _stacked(states: Sequence[State]) -> State:
    """The states of images stacked into one. Either all or none are None."""
    begun = [state for state in states if state is not None]
    return tuple(torch.stack(rows) for rows in zip(*begun, strict=True)) if begun else None


def _rows_of(state: State, images: int) -> Sequence[State]:
    """The inverse of `_stacked`."""
    if not state:
        return [None] * images
    if any(values.shape[:1] != (images,) for values in state):
        shapes = ", ".join(str(tuple(values.shape)) for values in state)
        raise ValueError(f"the state of a guidance strategy must have one row per image, {images} here; got {shapes}")
    return list(zip(*state, strict=True))
