"""The noise levels a model was trained on: a range of σ, and for discrete models the table σ ↔ timestep.

In the σ clock x = x₀ + σ ε; a variance-preserving model sees √ᾱ x with ᾱ = 1/(1+σ²).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import expm1, isfinite, log, log1p, sqrt
from typing import Protocol

from samplers.checks import look_up, positive, whole


def alpha_bar(sigma: float) -> float:
    """ᾱ = 1/(1+σ²), the signal's share of the variance."""
    return 1 / (1 + sigma * sigma)


def sigma_of(alpha_bar: float) -> float:
    """σ = √((1−ᾱ)/ᾱ), for 0 < ᾱ ≤ 1."""
    return sqrt((1 - alpha_bar) / alpha_bar)


class Levels(Protocol):
    """The range of σ a model knows: all that a grid spaced in σ asks for."""

    @property
    def sigma_min(self) -> float:
        """The lowest positive level."""
        ...

    @property
    def sigma_max(self) -> float:
        """The highest level, where sampling starts."""
        ...


@dataclass(frozen=True)
class ContinuousLevels:
    """Every σ in [sigma_min, sigma_max]; ValueError unless 0 < sigma_min < sigma_max < ∞."""

    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        positive("sigma_min", self.sigma_min)
        positive("sigma_max", self.sigma_max)
        if not self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min must lie below sigma_max, got {self.sigma_min!r} and {self.sigma_max!r}")


@dataclass(frozen=True)
class DiscreteLevels:
    """A table of n levels, `sigmas[t]` for the timesteps t = 0 … n−1; ValueError unless they rise from above 0.

    Between two timesteps log σ is linear in t, so `t` and `sigma` are each other's inverse.
    """

    sigmas: tuple[float, ...]
    _logs: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        s = self.sigmas
        if len(s) < 2 or not s[0] > 0 or not isfinite(s[-1]) or not all(a < b for a, b in pairwise(s)):
            raise ValueError("a table of levels needs two or more finite sigmas, strictly rising from above 0")
        object.__setattr__(self, "_logs", tuple(log(sigma) for sigma in s))

    @property
    def n(self) -> int:
        """How many timesteps there are."""
        return len(self.sigmas)

    @property
    def sigma_min(self) -> float:
        """σ at timestep 0."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> float:
        """σ at timestep n−1."""
        return self.sigmas[-1]

    @property
    def alpha_bars(self) -> tuple[float, ...]:
        """ᾱ of every timestep."""
        return tuple(alpha_bar(sigma) for sigma in self.sigmas)

    def sigma(self, t: float) -> float:
        """σ at the (possibly fractional) timestep `t`; ValueError outside [0, n−1]."""
        if not 0 <= t <= self.n - 1:
            raise ValueError(f"timestep {t!r} lies outside the table, which goes from 0 to {self.n - 1}")
        low = min(int(t), self.n - 2)
        a, b = self.sigmas[low : low + 2]
        part = t - low
        return b if part == 1 else a * (b / a) ** part

    def t(self, sigma: float) -> float:
        """The (possibly fractional) timestep of `sigma`; the nearest end of the table for a sigma outside it."""
        if sigma <= self.sigma_min:
            return 0.0
        if sigma >= self.sigma_max:
            return float(self.n - 1)
        low = bisect_right(self.sigmas, sigma) - 1
        a, b = self._logs[low : low + 2]
        return low + (log(sigma) - a) / (b - a)


def _linear(start: float, end: float, n: int) -> list[float]:
    return [start + (end - start) * i / (n - 1) for i in range(n)]


def _scaled_linear(start: float, end: float, n: int) -> list[float]:
    return [root * root for root in _linear(sqrt(start), sqrt(end), n)]


BETAS = {"linear": _linear, "scaled_linear": _scaled_linear}


def discrete_levels(
    betas: str = "scaled_linear", start: float = 0.00085, end: float = 0.012, n: int = 1000
) -> DiscreteLevels:
    """The levels of a variance-preserving model trained on n timesteps; the default is Stable Diffusion v1's.

    β rises from `start` to `end`: "linear" in β (Ho, Jain, Abbeel 2020, arXiv:2006.11239), "scaled_linear" in √β
    (Rombach et al. 2022, arXiv:2112.10752). ValueError for another name, or unless 0 < start ≤ end < 1 and n ≥ 2.
    """
    spacing = look_up("beta table", betas, BETAS)
    whole("n", n, 2)
    if not 0 < start <= end < 1:
        raise ValueError(f"betas need 0 < start <= end < 1, got start {start!r} and end {end!r}")
    return levels_of_betas(spacing(start, end, n))


def levels_of_betas(betas: Iterable[float]) -> DiscreteLevels:
    """The levels of any table of β in (0, 1): ᾱ_t = ∏ (1 − β_i), i ≤ t, and σ_t² = (1 − ᾱ_t)/ᾱ_t.

    Written with logarithms, σ² = exp(−log ᾱ) − 1, the small levels keep all their digits.
    """
    log_alpha_bars = accumulate(log1p(-beta) for beta in betas)
    return DiscreteLevels(tuple(sqrt(expm1(-log_alpha_bar)) for log_alpha_bar in log_alpha_bars))


def continuous_levels(lo: float, hi: float) -> ContinuousLevels:
    """The levels of a model that knows every σ in [lo, hi]; ValueError unless 0 < lo < hi < ∞."""
    return ContinuousLevels(lo, hi)
