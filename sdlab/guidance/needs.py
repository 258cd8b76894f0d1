"""What a guidance strategy needs of a model, and what a model lacks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import pairwise
from math import sqrt

from samplers.checks import unknown
from sdlab.guidance.base import Level, Query, Strategy, queries_of


def needed(strategy: Strategy, sigmas: Iterable[float]) -> set[Query]:
    """The queries at the levels of a grid and between them, where samplers with several calls per step make some."""
    steps = [sigma for sigma in sigmas if sigma > 0]
    middles = [Level(sqrt(a * b), a) for a, b in pairwise(steps)]
    return {query for level in (*map(Level, steps), *middles) for query in queries_of(strategy, level, None)}


def lacking(
    query: Query, model: str, conditional: bool, layers: Collection[str], others: Collection[str]
) -> str | None:
    """Why a model cannot answer the query, in one line, or None.

    Args:
        model: its name.
        conditional: whether it has conditions.
        layers: the names of `UnetConfig.layers`; empty for a denoiser without attention.
        others: the names of its further networks.
    """
    if query.perturbation is not None:
        if not layers:
            return f"model {model} has no attention that can be perturbed; use another strategy"
        for layer in query.perturbation.layers:
            if layer not in layers:
                return f"model {model}: {unknown('layer', layer, layers)}"
    if query.network is not None and query.network not in others:
        there = f" (it has {', '.join(map(repr, sorted(others)))})" if others else ""
        file = f"unet_{query.network}.safetensors"
        return f"model {model} has no network {query.network!r}{there}; its file would be {file} in the model's folder"
    crossed = query.perturbation is not None and query.perturbation.point == "cross_attention"
    if not conditional and (query.context != "cond" or crossed):
        return f'model {model} has no conditions; use "none"'
    return None
