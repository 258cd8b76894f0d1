"""Noise schedules: the range of σ a model was trained on and, for models with a time, the relation σ ↔ t.

In the σ clock x = x₀ + σ ε. The network's input depends on the model: √ᾱ x with ᾱ = 1/(1+σ²) for a variance-preserving
model, x/(1+σ) for a flow.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from math import cos, exp, expm1, isfinite, log, log1p, pi, sqrt
from typing import Protocol, runtime_checkable

from samplers.checks import look_up, positive, whole, within


def alpha_bar(sigma: float) -> float:
    """ᾱ = 1/(1+σ²), the signal's share of the variance."""
    return 1 / (1 + sigma * sigma)


def sigma_of(alpha_bar: float) -> float:
    """σ = √((1−ᾱ)/ᾱ), for 0 < ᾱ ≤ 1."""
    return sqrt((1 - alpha_bar) / alpha_bar)


class Levels(Protocol):
    """A noise schedule: the range of σ a model was trained on. Grids spaced in σ need no more."""

    @property
    def sigma_min(self) -> float:
        """The lowest positive level."""
        ...

    @property
    def sigma_max(self) -> float:
        """The highest level, where sampling starts."""
        ...


@runtime_checkable
class TimedLevels(Levels, Protocol):
    """A noise schedule with a time t in which σ increases. Grids spaced in time need it."""

    @property
    def t_min(self) -> float:
        """The time of the lowest level."""
        ...

    @property
    def t_max(self) -> float:
        """The time of the highest level."""
        ...

    def sigma(self, t: float, /) -> float:
        """σ at time t.

        Raises:
            ValueError: t is outside [t_min, t_max].
        """
        ...

    def t(self, sigma: float, /) -> float:
        """The time of `sigma`; the nearest end for a sigma outside the range."""
        ...


@dataclass(frozen=True)
class ContinuousLevels:
    """Every σ in [sigma_min, sigma_max].

    Raises:
        ValueError: not 0 < sigma_min < sigma_max < ∞.
    """

    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        positive("sigma_min", self.sigma_min)
        positive("sigma_max", self.sigma_max)
        if not self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min must be below sigma_max, got {self.sigma_min!r} and {self.sigma_max!r}")


@dataclass(frozen=True)
class ClockLevels:
    """Every time in [t_min, t_max], with σ(t) a formula and t(σ) its inverse; made by `vp_levels` and others."""

    t_min: float
    t_max: float
    to_sigma: Callable[[float], float]
    to_t: Callable[[float], float]

    @property
    def sigma_min(self) -> float:
        """σ at t_min."""
        return self.to_sigma(self.t_min)

    @property
    def sigma_max(self) -> float:
        """σ at t_max."""
        return self.to_sigma(self.t_max)

    def sigma(self, t: float) -> float:
        """σ at time `t`.

        Raises:
            ValueError: t is outside [t_min, t_max].
        """
        if not self.t_min <= t <= self.t_max:
            raise ValueError(f"time {t!r} is outside the noise schedule, which runs from {self.t_min} to {self.t_max}")
        return self.to_sigma(t)

    def t(self, sigma: float) -> float:
        """The time of `sigma`; the nearest end for a sigma outside the range."""
        if sigma <= self.sigma_min:
            return self.t_min
        return self.t_max if sigma >= self.sigma_max else self.to_t(sigma)


@dataclass(frozen=True)
class DiscreteLevels:
    """A table of n levels, `sigmas[t]` for the timesteps t = 0 … n−1.

    Between two timesteps log σ is linear in t, so `t` and `sigma` are inverses. `zero_snr` means that the last level is
    pure noise (see `zero_terminal_snr`).

    Raises:
        ValueError: there are fewer than two sigmas, or they are not strictly increasing from above 0.
    """

    sigmas: tuple[float, ...]
    zero_snr: bool = False
    _logs: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        s = self.sigmas
        if len(s) < 2 or not s[0] > 0 or not isfinite(s[-1]) or not all(a < b for a, b in pairwise(s)):
            raise ValueError("a table of levels needs two or more finite sigmas, strictly increasing from above 0")
        object.__setattr__(self, "_logs", tuple(log(sigma) for sigma in s))

    @property
    def n(self) -> int:
        """The number of timesteps."""
        return len(self.sigmas)

    @property
    def t_min(self) -> float:
        """The first timestep, 0."""
        return 0.0

    @property
    def t_max(self) -> float:
        """The last timestep, n−1."""
        return float(self.n - 1)

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
        """ᾱ per timestep."""
        return tuple(alpha_bar(sigma) for sigma in self.sigmas)

    def sigma(self, t: float) -> float:
        """σ at the (possibly fractional) timestep `t`.

        Raises:
            ValueError: t is outside [0, n−1].
        """
        if not 0 <= t <= self.n - 1:
            raise ValueError(f"timestep {t!r} is outside the table, which runs from 0 to {self.n - 1}")
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


def _sigmoid(start: float, end: float, n: int) -> list[float]:
    return [start + (end - start) / (1 + exp(-u)) for u in _linear(-6.0, 6.0, n)]


def _cosine(start: float, end: float, n: int, offset: float = 0.008, cap: float = 0.999) -> list[float]:
    bars = [cos((t / n + offset) / (1 + offset) * pi / 2) ** 2 for t in range(n + 1)]
    return [min(1 - after / before, cap) for before, after in pairwise(bars)]


BETAS = {"cosine": _cosine, "linear": _linear, "scaled_linear": _scaled_linear, "sigmoid": _sigmoid}


def discrete_levels(
    betas: str = "scaled_linear", start: float = 0.00085, end: float = 0.012, n: int = 1000
) -> DiscreteLevels:
    """The noise schedule of a variance-preserving model with n timesteps; Stable Diffusion v1's by default.

    β rises from `start` to `end`: "linear" in β (Ho, Jain, Abbeel 2020, arXiv:2006.11239), "scaled_linear" in √β
    (Rombach et al. 2022, arXiv:2112.10752), "sigmoid" in the logistic function from −6 to 6 (Xu et al. 2022,
    arXiv:2203.02923). "cosine" is `cosine_levels(n)`, which has no start and end of β.

    Raises:
        ValueError: the name is unknown, or not 0 < start ≤ end < 1, or n is below 2.
    """
    spacing = look_up("beta table", betas, BETAS)
    whole("n", n, 2, 1_000_000)
    if not 0 < start <= end < 1:
        raise ValueError(f"betas need 0 < start <= end < 1, got start {start!r} and end {end!r}")
    return levels_of_betas(spacing(start, end, n))


def cosine_levels(n: int = 1000, offset: float = 0.008, cap: float = 0.999) -> DiscreteLevels:
    """The cosine schedule: ᾱ(t) = cos²((t/n + offset)/(1 + offset) π/2), β_t = min(1 − ᾱ(t+1)/ᾱ(t), cap).

    The highest σ is about 2·10⁴ at the defaults. (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17)

    Raises:
        ValueError: n is below 2, offset is not above 0, or cap is not between 0 and 1.
    """
    whole("n", n, 2, 1_000_000)
    positive("offset", offset)
    if not 0 < cap < 1:
        raise ValueError(f"cap must be between 0 and 1, got {cap!r}")
    return levels_of_betas(_cosine(0, 1, n, offset, cap))


def levels_of_betas(betas: Iterable[float]) -> DiscreteLevels:
    """The noise schedule of a table of β in (0, 1): ᾱ_t = ∏ (1 − β_i), i ≤ t, and σ_t² = (1 − ᾱ_t)/ᾱ_t.

    Computed from logarithms, σ² = exp(−log ᾱ) − 1, so that small levels keep full precision.
    """
    log_alpha_bars = accumulate(log1p(-beta) for beta in betas)
    return DiscreteLevels(tuple(sqrt(expm1(-log_alpha_bar)) for log_alpha_bar in log_alpha_bars))


def continuous_levels(lo: float, hi: float) -> ContinuousLevels:
    """The noise schedule of a model trained on every σ in [lo, hi].

    Raises:
        ValueError: not 0 < lo < hi < ∞.
    """
    return ContinuousLevels(lo, hi)


def vp_levels(beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3, t_max: float = 1.0) -> ClockLevels:
    """The variance-preserving process with β(t) = β_min + t (β_max − β_min) on [t_min, t_max].

    σ² = exp(β_min t + (β_max − β_min) t²/2) − 1  (Song et al. 2021, arXiv:2011.13456, eq. 33).

    Raises:
        ValueError: not 0 < beta_min < beta_max, or not 0 < t_min < t_max.
    """
    _rising("beta", beta_min, beta_max)
    _rising("t", t_min, t_max)
    slope = beta_max - beta_min
    return ClockLevels(t_min, t_max, partial(_vp_sigma, beta_min, slope), partial(_vp_t, beta_min, slope))


# The clocks are functions of the module, so that schedules can be pickled.
def _vp_sigma(beta_min: float, slope: float, t: float) -> float:
    return sqrt(expm1(t * (beta_min + slope * t / 2)))


def _vp_t(beta_min: float, slope: float, sigma: float) -> float:
    return (sqrt(beta_min**2 + 2 * slope * log1p(sigma * sigma)) - beta_min) / slope


def ve_levels(sigma_min: float = 0.01, sigma_max: float = 50.0) -> ClockLevels:
    """The variance-exploding process on [0, 1]: σ = σ_min (σ_max/σ_min)^t.

    (Song et al. 2021, arXiv:2011.13456, eq. 30)

    Raises:
        ValueError: not 0 < sigma_min < sigma_max.
    """
    _rising("sigma", sigma_min, sigma_max)
    ratio = sigma_max / sigma_min
    return ClockLevels(0.0, 1.0, partial(_ve_sigma, sigma_min, ratio), partial(_ve_t, sigma_min, ratio))


def _ve_sigma(sigma_min: float, ratio: float, t: float) -> float:
    return sigma_min * ratio**t


def _ve_t(sigma_min: float, ratio: float, sigma: float) -> float:
    return log(sigma / sigma_min) / log(ratio)


def edm_levels(sigma_min: float = 0.002, sigma_max: float = 80.0) -> ClockLevels:
    """A noise schedule whose time is σ itself.  (Karras et al. 2022, arXiv:2206.00364, Table 1)

    Raises:
        ValueError: not 0 < sigma_min < sigma_max.
    """
    _rising("sigma", sigma_min, sigma_max)
    return ClockLevels(sigma_min, sigma_max, _same, _same)


def _same(value: float) -> float:
    return value


def flow_levels(t_min: float = 1e-3, t_max: float = 0.9999) -> ClockLevels:
    """A rectified flow x_t = (1−t) x₀ + t ε: in the σ clock x = x_t/(1−t) and σ = t/(1−t).

    t = 1 is σ = ∞, so sampling starts slightly below it, where x equals ε to one part in 10⁴. (Liu et al. 2023,
    arXiv:2209.03003; Lipman et al. 2023, arXiv:2210.02747)

    Raises:
        ValueError: not 0 < t_min < t_max < 1.
    """
    _rising("t", t_min, t_max)
    if not t_max < 1:
        raise ValueError(f"t_max must be below 1, where σ is infinite, got {t_max!r}")
    return ClockLevels(t_min, t_max, _flow_sigma, _flow_t)


def _flow_sigma(t: float) -> float:
    return t / (1 - t)


def _flow_t(sigma: float) -> float:
    return sigma / (1 + sigma)


def zero_terminal_snr(levels: DiscreteLevels, sigma_max: float = 4096.0) -> DiscreteLevels:
    """`levels` rescaled so that the last timestep is pure noise, for models trained that way.

    √ᾱ_t ← (√ᾱ_t − √ᾱ_T) √ᾱ_0/(√ᾱ_0 − √ᾱ_T)  (Lin et al. 2023, arXiv:2305.08891, Algorithm 1)

    ᾱ_T = 0 is σ = ∞. The last σ is `sigma_max` instead, by default the σ of ᾱ_T = 2⁻²⁴. There x over its standard
    deviation is pure noise to one part in 4096. Such a model must predict v or x₀, because at x = ε the noise carries
    no information about the data (`check_prediction`). Its grid must start at the last timestep (trailing, not
    leading).

    Raises:
        ValueError: `sigma_max` is not above the σ of the last but one timestep.
    """
    roots = [sqrt(bar) for bar in levels.alpha_bars]
    scale = roots[0] / (roots[0] - roots[-1])
    inner = tuple(sigma_of(((root - roots[-1]) * scale) ** 2) for root in roots[1:-1])
    below = inner[-1] if inner else levels.sigmas[0]
    if not below < sigma_max < float("inf"):
        raise ValueError(f"sigma_max must be finite and above {below:.6g}, the level before it, got {sigma_max!r}")
    return DiscreteLevels((levels.sigmas[0], *inner, sigma_max), zero_snr=True)


def check_prediction(levels: Levels, prediction: str) -> None:
    """Check that a network with this prediction type works with this noise schedule.

    Raises:
        ValueError: it predicts "eps" and the schedule has zero terminal SNR.
    """
    if prediction == "eps" and isinstance(levels, DiscreteLevels) and levels.zero_snr:
        raise ValueError("levels with zero terminal SNR need a model that predicts 'v' or 'x0': at pure noise ε is x")


def _rising(what: str, low: float, high: float) -> None:
    positive(f"{what}_min", low)
    within(f"{what}_max", high, low)
    if not low < high:
        raise ValueError(f"{what}_min must be below {what}_max, got {low!r} and {high!r}")
