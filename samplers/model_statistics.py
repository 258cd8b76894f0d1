"""Empirical model statistics: how a model's prediction depends on x and on the noise level, element by element.

With λ = −log σ the flow is dx/dλ = D − x. For any l(λ) it is dx/dλ = −l x − f with f = (1 − l) x − D, and the solver
integrates the linear part exactly. DPM-Solver-v3 chooses
    l = E[1 − ∂D_i/∂x_i]                                    so that f depends on x as little as possible
    s = Cov(f, f′)/Var(f),   b = E[f′] − s E[f]             so that f′ = s f + b fits best along the flow

All are expectations over x at a level, for each element i of an image. Along the flow Cov(f, f′) = ½ d Var(f)/dλ, so
the solution of f′ = s f + b needs no derivative:
    f(λ) = m(λ) + r(λ)/r(λ₀) (f(λ₀) − m(λ₀)),   m = E[f],  r = √Var(f)

Therefore l, m and r are what is measured and kept. s is the slope of log r, and b = m′ − s m. (Zheng et al. 2023,
arXiv:2310.13268)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from math import log, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler
from samplers.dpm_solver import DPMpp3M

Array = NDArray[np.float64]
_PROBE = 0.02  # length of the difference that gives ∂D/∂x, in σ
_FLOOR, _LEAST = 1e-3, 1e-12  # of r, in spreads of D, and at least: below it f counts as known


@dataclass(frozen=True, eq=False)
class ModelStatistics:
    """l, m and r (M, *image shape) at M falling levels above 0, in float64, and where they are from.

    Raises:
        ValueError: there are fewer than four levels, they do not fall strictly to above 0, the shapes differ, a
            value is not finite, or one of r is not above 0.
    """

    sigmas: tuple[float, ...]
    linear: Array
    mean: Array
    spread: Array
    origin: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        s = self.sigmas
        if len(s) < 4 or not s[-1] > 0 or not all(a > b for a, b in pairwise(s)):
            raise ValueError("statistics need four or more levels that fall strictly to above 0")
        if not self.linear.shape == self.mean.shape == self.spread.shape or len(self.linear) != len(s):
            raise ValueError("statistics need l, m and r of one shape, with one row per level")
        if not all(np.isfinite(values).all() for values in (self.linear, self.mean, self.spread)):
            raise ValueError("statistics must be finite")
        if not (self.spread > 0).all():
            raise ValueError("the r of statistics must be above 0")

    @property
    def shape(self) -> tuple[int, ...]:
        """That of an image."""
        return self.linear.shape[1:]

    def fitting(self, shape: Sequence[int]) -> ModelStatistics:
        """These for samples of this shape. For single numbers, on which calls are counted, their mean over elements.

        Raises:
            ValueError: the shape is another.
        """
        if tuple(shape) == self.shape:
            return self
        if prod(shape) == 1:
            return _single(self, len(shape))
        raise ValueError(f"the statistics are of samples of shape {self.shape}, not {tuple(shape)}")

    @cached_property
    def splines(self) -> tuple[Any, Any, Any]:
        """Splines in λ through the integral of l, through m, and through log r."""
        from scipy.interpolate import CubicSpline  # slow to import

        places = [-log(sigma) for sigma in self.sigmas]
        linear, mean, logs = (CubicSpline(places, y) for y in (self.linear, self.mean, np.log(self.spread)))
        return linear.antiderivative(), mean, logs

    def at(self, sigma: float) -> tuple[Array, Array, Array]:
        """l, m and r at a level; those of the nearest measured one if it is outside their range."""
        integral, mean, logs = self.splines
        place = min(max(-log(sigma), -log(self.sigmas[0])), -log(self.sigmas[-1]))
        return integral(place, 1), mean(place), np.exp(logs(place))

    def along(self, sigma: float, h: float, shares: Array) -> tuple[Array, Array, Array]:
        """∫ l from `sigma` on, m and r (K, *image shape) at `shares` of a step of h in λ from `sigma`."""
        integral, mean, logs = self.splines
        first, last = -log(self.sigmas[0]), -log(self.sigmas[-1])

        def grown(places: Array) -> Array:
            inside = places.clip(first, last)
            outside = (places - inside).reshape(-1, *[1] * len(self.shape))
            return np.asarray(integral(inside) + outside * integral(inside, 1))

        places = -log(sigma) + shares * h
        inside = places.clip(first, last)
        return grown(places) - grown(np.array([-log(sigma)])), mean(inside), np.exp(logs(inside))


@lru_cache(maxsize=32)
def _single(statistics: ModelStatistics, dimensions: int) -> ModelStatistics:
    parts = (
        values.reshape(len(values), -1).mean(1).reshape(-1, *[1] * dimensions)
        for values in (statistics.linear, statistics.mean, statistics.spread)
    )
    return ModelStatistics(statistics.sigmas, *parts)


@dataclass
class Moments:
    """Sums over images at one level: of x, D, x², xD, D² and the diagonal of ∂D/∂x."""

    count: int
    sums: Tensor  # (6, *image shape), float64

    def add(self, x: Tensor, x0: Tensor, slope: Tensor) -> None:
        """Add the images of a batch, (B, …) each."""
        x, x0 = x.double(), x0.double()
        self.sums += torch.stack([part.sum(0).cpu() for part in (x, x0, x * x, x * x0, x0 * x0, slope.double())])
        self.count += len(x)


@dataclass(frozen=True)
class _Measuring(Sampler):
    """A sampler that follows the flow on fine levels and measures its moments there: two calls per step.

    For random signs v the mean of v ⊙ (∂D/∂x) v is the diagonal of ∂D/∂x (Hutchinson's estimator). The product is a
    difference of D over 0.02 σ. It needs no gradients, and its error of first order has mean 0. An image keeps its
    signs at all levels, so that what is left of the noise is smooth in λ.
    """

    kept: dict[float, Moments] = field(default_factory=dict, compare=False)
    signs: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0), compare=False)

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Any, noise: Noise
    ) -> tuple[Tensor, Any]:
        """x at `sigma` -> x at `sigma_next`."""
        v, following = memory or ((torch.randint(0, 2, x.shape, generator=self.signs) * 2 - 1).to(x), None)
        x0 = denoise(x, sigma)
        ahead = denoise(x + _PROBE * sigma * v, sigma)
        moments = self.kept.setdefault(sigma, Moments(0, torch.zeros((6, *x.shape[1:]), dtype=torch.float64)))
        moments.add(x, x0, v * (ahead - x0) / (_PROBE * sigma))
        x, following = _FOLLOWING.step(lambda x, sigma: x0, x, sigma, sigma_next, following, noise)
        return x, (v, following)

    def statistics(self, origin: dict[str, str] | None = None) -> ModelStatistics:
        """What was measured.

        Raises:
            ValueError: too few levels were visited, or a value is not finite.
        """
        sigmas = sorted(self.kept, reverse=True)
        return statistics_of(sigmas, [self.kept[sigma] for sigma in sigmas], origin or {})


_FOLLOWING = DPMpp3M()


def statistics_of(sigmas: Sequence[float], moments: Sequence[Moments], origin: dict[str, str]) -> ModelStatistics:
    """The statistics of these moments. f = (1 − l) x − D has the mean and the variance that follow from them."""
    means = np.stack([(one.sums / one.count).numpy() for one in moments])
    x, d, xx, xd, dd, slope = (means[:, i] for i in range(6))
    linear = 1 - slope
    keep = 1 - linear
    spread = np.sqrt(np.maximum(dd - d * d, 0).mean(axis=tuple(range(1, d.ndim)), keepdims=True))
    variance = keep**2 * (xx - x * x) - 2 * keep * (xd - x * d) + (dd - d * d)
    floor = np.maximum(_FLOOR * spread, _LEAST)
    return ModelStatistics(tuple(sigmas), linear, keep * x - d, np.sqrt(np.maximum(variance, 0) + floor**2), origin)


def measuring() -> _Measuring:
    """A sampler that measures while it samples. After a run on fine levels, `statistics()` has the result."""
    return _Measuring()
