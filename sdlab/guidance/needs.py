"""What a guidance strategy needs of a model, and what a model lacks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor

import samplers
from samplers.checks import unknown
from sdlab.guidance.base import IMAGE, Level, Limited, Query, Strategy, queries_of, with_sources


def needed(strategy: Strategy, sigmas: Sequence[float], sampler: samplers.Sampler | None = None) -> set[Query]:
    """The queries at the levels of a grid, and between them, where samplers with several calls per step make some.

    With the `sampler`, those of its calls are among them.
    """
    steps = [sigma for sigma in sigmas if sigma > 0]
    middles = [Level(sqrt(a * b), a) for a, b in pairwise(steps)]
    calls = () if sampler is None else called(sampler, tuple(sigmas))
    levels = (*map(Level, steps), *middles, *calls)
    return {query for level in levels for query in with_sources(queries_of(strategy, level, None))}


def idle(strategy: Strategy, sigmas: Sequence[float]) -> str | None:
    """Why a strategy never acts in a run on this grid, in one line, or None."""
    steps = [sigma for sigma in sigmas if sigma > 0]
    if not isinstance(strategy, Limited) or not steps:
        return None
    low, high = strategy.limits
    if low < max(steps) and high >= min(steps):
        return None
    return (
        f"the interval [{low:g}, {high:g}] has no noise level of the run, which goes from {max(steps):.4g} "
        f'to {min(steps):.4g}; use another interval, or "none"'
    )


def missed(strategy: Strategy, sigmas: Sequence[float], sampler: samplers.Sampler) -> str | None:
    """Why a strategy does not act in this run though its interval is among the levels, in one line, or None.

    An adaptive sampler chooses its levels, so nothing is known of it.
    """
    if not isinstance(strategy, Limited) or sampler.nfe(sigmas) is None:
        return None
    if any(strategy.acts(level) for level in called(sampler, tuple(sigmas))):
        return None
    low, high = strategy.limits
    return (
        f"the interval [{low:g}, {high:g}] is between two noise levels, so nothing is guided in {len(sigmas) - 1} "
        f"step{'s' * (len(sigmas) != 2)}"
    )


@lru_cache(maxsize=4096)  # a sweep repeats the call for every guidance strategy and scale
def called(sampler: samplers.Sampler, sigmas: tuple[float, ...]) -> tuple[Level, ...]:
    """The levels of the denoiser calls of a run, from a run on a scalar."""
    calls = _Calls()
    samplers.run(sampler, calls, torch.ones(1, 1, dtype=torch.float64), sigmas, noise=torch.zeros_like)
    return tuple(calls.levels)


class _Calls:
    """A denoiser that keeps the levels of its calls."""

    def __init__(self) -> None:
        self.levels = list[Level]()
        self._step: float | None = None

    def begin_step(self, sigma: float) -> None:
        self._step = sigma

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.levels.append(Level(sigma, self._step))
        return x / (1 + sigma**2)

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        x0 = self(x, sigma)
        return x0, x0


def needs_gradients(queries: Iterable[Query]) -> bool:
    """Whether some query is answered by a gradient through the network."""
    return any(query.loss is not None for query in queries)


def repeated(queries: Iterable[Query], negative: str) -> str | None:
    """Why a strategy makes the unconditional prediction twice with this negative prompt, in one line, or None."""
    found = {(query.context, query.prompt) for query in queries}
    if ("cond", negative) not in found or ("uncond", None) not in found:
        return None
    return f"it has the prompt {negative!r}, which is the negative prompt too; give another negative prompt"


@dataclass(frozen=True)
class Offer:
    """What a model has for guidance strategies."""

    model: str  # its name
    conditional: bool = True  # has conditions
    layers: Collection[str] = ()  # the names of `UnetConfig.layers`; empty for a denoiser without attention
    others: Collection[str] = ()  # the names of its further networks
    labels: bool = False  # its conditions are class labels
    prompts: bool = True  # has a text encoder
    pictures: bool = False  # has pictures as conditions
    masked: bool = False  # its conditions have a mask


def lacking(query: Query, offer: Offer) -> str | None:
    """Why a model cannot answer the query, in one line, or None."""
    model, layers, others = offer.model, offer.layers, offer.others
    perturbed = () if query.perturbation is None else query.perturbation.layers
    read = () if query.input is None else query.input.layers
    if (perturbed or read) and not layers:
        what = "network that can be perturbed" if perturbed else "attention that can be read"
        return f"model {model} has no {what}; use another strategy"
    for layer in (*perturbed, *read):
        if layer not in layers:
            return f"model {model}: {unknown('layer', layer, layers)}"
    if query.network is not None and query.network not in others:
        there = f" (it has {', '.join(map(repr, sorted(others)))})" if others else ""
        file = f"unet_{query.network}.safetensors"
        return f"model {model} has no network {query.network!r}{there}; its file would be {file} in the model's folder"
    crossed = query.perturbation is not None and query.perturbation.point == "cross_attention"
    if not offer.conditional and (
        query.context != "cond" or crossed or query.noise is not None or query.prompt is not None
    ):
        return f'model {model} has no conditions; use "none"'
    if query.context == IMAGE.context and not offer.pictures:
        return f"model {model} has no picture as a condition; use a custom model with `without_text`"
    if not offer.prompts and query.prompt is not None:
        return f"model {model} has no text encoder for the prompt {query.prompt!r}; use another strategy"
    if offer.labels and query.noise is not None:
        return f"model {model} has class labels as conditions, to which no noise can be added; use another strategy"
    if offer.masked and query.noise is not None:
        return f"model {model} has a mask in its conditions, to which no noise can be added; use another strategy"
    return None
