"""Accuracy at fixed numbers of network passes, from noise to σ = 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch

import samplers
from samplers.denoiser import Counted
from samplers.exact import NoLawError, distance
from sdlab.certify.problems import GAUSSIAN, LINE, line_quantiles, use_grid

PASSES = (5, 10, 20, 50)
_COUNT = 16384  # samples in one dimension
_LOOSEST = 16.0


@dataclass(frozen=True)
class Accuracy:
    """Distances between the law of the samples and the law of the data, relative to the data's spread; nan if unknown.

    `gaussian` is the Wasserstein distance W₂, exact. `mixture` is W₁ in one dimension, from 16384 samples. For a
    stochastic sampler, values below `floor()` are sampling error.
    """

    budget: int
    passes: int
    steps: int
    gaussian: float
    mixture: float


def accuracy(sampler: samplers.Sampler, passes: Sequence[int] = PASSES) -> list[Accuracy]:
    """The accuracy at the most steps within each budget of network passes. Budgets below one step are omitted."""
    if isinstance(sampler, samplers.AdaptiveSampler):
        found = [_adaptive(sampler, n) for n in passes]
    elif sampler.nfe(use_grid(2)) is None:  # no option sets its number of passes
        found = []
    else:
        found = [_fixed(sampler, n) for n in passes]
    return [one for one in found if one is not None]


@cache
def floor() -> float:
    """The expected `mixture` for the same number of exact samples."""
    x = LINE.sample(_COUNT, torch.Generator().manual_seed(0), torch.float64)
    return _distance(x)


def _fixed(sampler: samplers.Sampler, budget: int) -> Accuracy | None:
    fitting = [n for n in range(1, budget + 1) if cast(int, sampler.nfe(use_grid(n))) <= budget]
    if not fitting:
        return None
    sigmas = use_grid(fitting[-1])
    try:
        gaussian = distance(sampler, GAUSSIAN, sigmas) / _spread(GAUSSIAN.marginal_variance(0.0))
    except NoLawError:
        gaussian = math.nan
    mixture, calls = _on_the_line(sampler, sigmas)
    return Accuracy(budget, calls, fitting[-1], gaussian, mixture)


def _adaptive(sampler: samplers.AdaptiveSampler, budget: int) -> Accuracy | None:
    """The accuracy of the finest tolerance within the budget."""
    best, rtol = None, _LOOSEST
    while rtol > 1e-6:
        mixture, calls = _on_the_line(sampler.with_tolerance(rtol), use_grid(2))
        if calls > budget:
            break
        best, rtol = Accuracy(budget, calls, 0, math.nan, mixture), rtol / 2
    return best


def _on_the_line(sampler: samplers.Sampler, sigmas: Sequence[float]) -> tuple[float, int]:
    """W₁ to the data, and the number of calls. Every image is one scalar and starts at its quantile."""
    denoise = Counted(LINE.denoise)
    x = line_quantiles(sigmas[0], _COUNT)
    noise = torch.Generator().manual_seed(1)
    end = samplers.run(
        sampler, denoise, x, sigmas, noise=lambda like: torch.randn(like.shape, generator=noise, dtype=like.dtype)
    )
    return _distance(end), denoise.calls


def _distance(x: torch.Tensor) -> float:
    gap = (x.sort().values - line_quantiles(0.0, _COUNT)).abs().mean()
    return float(gap) / _spread(LINE.marginal_variance(0.0))


def _spread(variance: torch.Tensor) -> float:
    return math.sqrt(float(variance.sum()))
