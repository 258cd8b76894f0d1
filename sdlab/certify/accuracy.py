"""What a number of network passes buys, from noise down to σ = 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch

import samplers
from samplers.denoiser import Counted
from samplers.exact.law import NoLawError, distance
from sdlab.certify.problems import GAUSSIAN, LINE, line_quantiles, use_grid

PASSES = (5, 10, 20, 50)
_COUNT = 16384  # points of the line
_LOOSEST = 16.0


@dataclass(frozen=True)
class Accuracy:
    """Distances between the law of the samples and of the data; nan where there is none to give.

    `gaussian` is Wasserstein's W₂, exact, over the data's own spread; `mixture` is W₁ in one dimension, over the same,
    from 16384 samples: below `floor()` it is the sampling error of a stochastic rule.
    """

    budget: int
    passes: int
    steps: int
    gaussian: float
    mixture: float


def accuracy(rule: samplers.Sampler, passes: Sequence[int] = PASSES) -> list[Accuracy]:
    """At each budget of network passes, the most steps that fit in; a budget in which none fits is left out."""
    if isinstance(rule, samplers.AdaptiveSampler):
        found = [_adaptive(rule, n) for n in passes]
    elif rule.nfe(use_grid(2)) is None:  # nothing to set that would meet a budget
        found = []
    else:
        found = [_fixed(rule, n) for n in passes]
    return [one for one in found if one is not None]


@cache
def floor() -> float:
    """What `mixture` would be of samples without any error but their number."""
    x = LINE.sample(_COUNT, torch.Generator().manual_seed(0), torch.float64)
    return _distance(x)


def _fixed(rule: samplers.Sampler, budget: int) -> Accuracy | None:
    fitting = [n for n in range(1, budget + 1) if cast(int, rule.nfe(use_grid(n))) <= budget]
    if not fitting:
        return None
    sigmas = use_grid(fitting[-1])
    try:
        gaussian = distance(rule, GAUSSIAN, sigmas) / _spread(GAUSSIAN.marginal_variance(0.0))
    except NoLawError:
        gaussian = math.nan
    mixture, calls = _on_the_line(rule, sigmas)
    return Accuracy(budget, calls, fitting[-1], gaussian, mixture)


def _adaptive(rule: samplers.AdaptiveSampler, budget: int) -> Accuracy | None:
    """The finest tolerance that the budget pays for."""
    best, rtol = None, _LOOSEST
    while rtol > 1e-6:
        mixture, calls = _on_the_line(rule.with_tolerance(rtol), use_grid(2))
        if calls > budget:
            break
        best, rtol = Accuracy(budget, calls, 0, math.nan, mixture), rtol / 2
    return best


def _on_the_line(rule: samplers.Sampler, sigmas: Sequence[float]) -> tuple[float, int]:
    """W₁ to the data, and the calls it took; every image is one point, and starts at its quantile."""
    denoise = Counted(LINE.denoise)
    x = line_quantiles(sigmas[0], _COUNT)
    noise = torch.Generator().manual_seed(1)
    end = samplers.run(
        rule, denoise, x, sigmas, noise=lambda like: torch.randn(like.shape, generator=noise, dtype=like.dtype)
    )
    return _distance(end), denoise.calls


def _distance(x: torch.Tensor) -> float:
    gap = (x.sort().values - line_quantiles(0.0, _COUNT)).abs().mean()
    return float(gap) / _spread(LINE.marginal_variance(0.0))


def _spread(variance: torch.Tensor) -> float:
    return math.sqrt(float(variance.sum()))
