"""The model's time t(σ), for samplers whose steps are defined in time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import exp, log
from typing import NamedTuple

from samplers.levels import Levels, TimedLevels, discrete_levels

DEFAULT: Levels = discrete_levels()  # Stable Diffusion v1's


class Clock(NamedTuple):
    """t(σ) and its inverse σ(t), for any σ > 0."""

    t: Callable[[float], float]
    sigma: Callable[[float], float]


def clock(levels: Levels) -> Clock:
    """The clock of a noise schedule; log σ for a schedule without a time.

    Outside the schedule log σ is extrapolated linearly in t, with the slope over its last thousandth. Equal schedules
    have the same clock, so that what is computed with it can be kept.
    """
    try:
        return _known(levels)  # type: ignore[arg-type]
    except TypeError:  # a custom schedule that cannot be hashed
        return _clock(levels)


def _clock(levels: Levels) -> Clock:
    if not isinstance(levels, TimedLevels):
        return Clock(log, exp)
    inner_t, inner_sigma = levels.t, levels.sigma
    low, high, bottom, top = levels.t_min, levels.t_max, levels.sigma_min, levels.sigma_max
    width = (high - low) / 1000
    below, above = log(inner_sigma(low + width) / bottom) / width, log(top / inner_sigma(high - width)) / width

    def t(sigma: float) -> float:
        if sigma < bottom:
            return low + log(sigma / bottom) / below
        return inner_t(sigma) if sigma <= top else high + log(sigma / top) / above

    def sigma(t: float) -> float:
        if t < low:
            return bottom * exp((t - low) * below)
        return inner_sigma(t) if t <= high else top * exp((t - high) * above)

    return Clock(t, sigma)


_known = lru_cache(maxsize=16)(_clock)
