"""The guided denoiser: a strategy, a model and its contexts combined into the denoiser of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import nan

import torch
from torch import Tensor

from samplers.checks import look_up
from sdlab.denoiser import Model, Sigma
from sdlab.guidance.base import UNCOND, Query, State, Strategy


class Guided:
    """D(x, σ) -> x̂₀ for one run. Batches and counts the queries, and keeps the state of the strategy.

    Build a new one for each run. Images of a batch may be at different levels and need different queries. Each gives
    the same picture and costs the same number of passes as it would alone.

        denoise = Guided(guidance.make("cfg", scale=3.0), model, {"cond": cond, "uncond": uncond})
        x0 = samplers.run(sampler, denoise, x, sigmas)
        denoise.passes                                # network passes per image
    """

    def __init__(self, strategy: Strategy, model: Model, contexts: Mapping[str, Tensor]) -> None:
        """`contexts` maps the names used in queries to contexts with a row per image, (B, …), or one for all, (1, …).

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

    @property
    def passes(self) -> float:
        """Network passes per image so far, averaged over the images."""
        return self._rows / self._images

    def __call__(self, x: Tensor, sigma: Sigma) -> Tensor:
        """x (B, …) at level σ, a float or one per image (B,) -> the guided x̂₀ in the shape of x."""
        return self._guide(x, sigma)[0]

    def with_uncond(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor]:
        """The guided and the unconditional x̂₀. Costs one more pass if the strategy does not query the latter."""
        x0, predictions = self._guide(x, sigma, also=(UNCOND,))
        return x0, predictions[UNCOND]

    def _guide(self, x: Tensor, sigma: Sigma, also: tuple[Query, ...] = ()) -> tuple[Tensor, dict[Query, Tensor]]:
        """The guided x̂₀, and the predictions from `_predict`."""
        levels = sigma.tolist() if isinstance(sigma, Tensor) else [float(sigma)] * len(x)
        wanted = {level: self.strategy.queries(level) for level in dict.fromkeys(levels)}
        queried = {level: tuple(dict.fromkeys((*also, *queries))) for level, queries in wanted.items()}
        predictions = self._predict(x, sigma, [queried[level] for level in levels])
        begun = [state is not None for state in self._states]
        guided = []
        for (level, _), rows in _groups(zip(levels, begun, strict=True)).items():
            parts = tuple(_take(predictions[query], rows) for query in wanted[level])
            state = _stacked([self._states[i] for i in rows])
            x0, state = self.strategy.combine(parts, _take(x, rows), level, state)
            if not isinstance(x0, Tensor) or x0.shape != parts[0].shape:
                found = tuple(x0.shape) if isinstance(x0, Tensor) else type(x0).__name__
                raise ValueError(f"combine turns predictions of shape {tuple(parts[0].shape)} into {found}")
            guided.append((rows, x0))
            for i, row in zip(rows, _rows_of(state, len(rows)), strict=True):
                self._states[i] = row
        return _joined(guided, x), predictions

    def _predict(self, x: Tensor, sigma: Sigma, queried: Sequence[tuple[Query, ...]]) -> dict[Query, Tensor]:
        """x̂₀ (B, …) of each query, from one call of each network, with NaN for images without that query."""
        images: dict[Query, list[int]] = {}
        for i, queries in enumerate(queried):
            for query in queries:
                images.setdefault(query, []).append(i)
        found: dict[Query, Tensor] = {}
        for network in dict.fromkeys(query.network for query in images):
            asked = {query: rows for query, rows in images.items() if query.network == network}
            found |= self._ask(network, asked, x, sigma)
        return found

    def _ask(
        self, network: str | None, images: Mapping[Query, list[int]], x: Tensor, sigma: Sigma
    ) -> dict[Query, Tensor]:
        """The predictions of one network, from one call."""
        perturbation = tuple(query.perturbation for query, rows in images.items() for _ in rows)
        options: dict[str, object] = {} if network is None else {"network": network}
        if any(perturbation):
            options["perturbation"] = perturbation
        if any(one is not None and one.point == "cross_attention" for one in perturbation):
            options["negative"] = self._contexts([(query.negative, rows) for query, rows in images.items()])
        found = self._model(
            torch.cat([_take(x, rows) for rows in images.values()]),
            torch.cat([_take(sigma, rows) for rows in images.values()]) if isinstance(sigma, Tensor) else sigma,
            self._contexts([(query.context, rows) for query, rows in images.items()]),
            **options,
        )
        self._rows += len(perturbation)
        parts = found.split([len(rows) for rows in images.values()])
        return {query: _joined([(rows, part)], x) for (query, rows), part in zip(images.items(), parts, strict=True)}

    def _contexts(self, named: Sequence[tuple[str, list[int]]]) -> Tensor:
        """The contexts of these names, each for the given images."""
        return torch.cat([_take(look_up("context", name, self.contexts), rows) for name, rows in named])


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


def _groups(keys: Iterable[tuple[float, bool]]) -> dict[tuple[float, bool], list[int]]:
    """The indices at which each key occurs."""
    found: dict[tuple[float, bool], list[int]] = {}
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
