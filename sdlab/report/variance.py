"""Analysis of variance: the shares of the variance between cells that are due to factors, interactions and noise.

The effect of a factor is an orthogonal projection P ȳ of the values ȳ of the K cells. With noise of covariance Σ its
expected square is E‖P ȳ‖² = ‖P μ‖² + tr(P Σ), so ‖P ȳ‖² − tr(P Σ̂) is an unbiased estimate of ‖P μ‖², whatever the
covariance. Cells with common seeds have correlated noise. Over the total ‖ȳ − mean‖² this is the share ε² (Kelley 1935,
doi:10.1073/pnas.21.9.554), which differs from ω² only in its total. It is below 0 in half of all cases without an
effect.

In a full factorial plan the projections are orthogonal, and the shares sum to 1. Otherwise sums of squares are of type
II: an effect is what it explains beyond all effects that do not contain it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REST, NOISE, SHARED = "higher interactions", "noise", "not separable"
_CONFIDENCE = 0.95
_DRAWS = 2000
_HALVINGS = 30  # of the interval that is searched for a limit
_FARTHEST = 1e9  # a limit, as a multiple of the observed effect
_ROUNDING = 1e-12  # values that differ by less, relative to the largest, are equal
_TINY = 1e-9  # directions with smaller singular values are not in the design

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Design:
    """The effects of a plan, each as an orthonormal basis, (K, df)."""

    effects: dict[str, Array]
    full: bool  # whether every combination of levels is there once

    @property
    def cells(self) -> int:
        """The number of cells, K."""
        return len(next(iter(self.effects.values())))


def design(factors: Mapping[str, Sequence[str]]) -> Design:
    """Main effects, two-way interactions and all higher ones of factors, each given by its levels in the K cells.

    Effects without degrees of freedom are left out, such as that of a factor which changes only with another.
    """
    levels = {name: sorted(set(one)) for name, one in factors.items()}
    main = {name: np.equal.outer(np.array(one), np.array(levels[name])) for name, one in factors.items()}
    columns: dict[tuple[str, ...], Array] = {(name,): one.astype(float) for name, one in main.items()}
    for a, b in itertools.combinations(factors, 2):
        columns[a, b] = (main[a][:, :, None] & main[b][:, None, :]).reshape(len(main[a]), -1).astype(float)
    cells = len(set(zip(*factors.values(), strict=True)))
    mean = np.ones((len(next(iter(main.values()))), 1))
    effects = {}
    for name, own in columns.items():
        others = [one for other, one in columns.items() if not set(name) <= set(other)]
        effects[" × ".join(name)] = _basis(own, np.hstack([mean, *others]))
    effects[REST] = _basis(np.eye(len(mean)), np.hstack([mean, *columns.values()]))
    full = cells == len(mean) == math.prod(map(len, levels.values()))
    return Design({name: one for name, one in effects.items() if one.shape[1]}, full)


def _basis(columns: Array, beyond: Array) -> Array:
    """An orthonormal basis of what the columns span orthogonally to those of `beyond`, (K, rank)."""
    u, size, _ = np.linalg.svd(beyond, full_matrices=False)
    known = u[:, size > _TINY * size[0]]
    u, size, _ = np.linalg.svd(columns - known @ (known.T @ columns), full_matrices=False)
    return u[:, size > _TINY * len(columns)]


@dataclass(frozen=True)
class Share:
    """A share of the variance between cells, with its degrees of freedom and its 95 % interval if it has any."""

    value: float
    freedom: int | None = None
    low: float | None = None
    high: float | None = None


def shares(values: Array, noise: Array, plan: Design) -> dict[str, Share]:
    """The share of each effect, then that of the noise and, unless the plan is full, what is not separable.

    The noise has no interval: it is what the standard errors predict, and is subtracted from the effects.

    Args:
        values: those of the K cells, (K,).
        noise: a matrix F (K, M) whose F Fᵀ is the covariance of their errors; M is 0 if they have none.
        plan: the effects of the K cells.
    """
    z = np.random.default_rng(0).standard_normal((noise.shape[1], _DRAWS))
    centred = values - values.mean()
    values = np.where(np.abs(centred).max() > _ROUNDING * np.abs(values).max(), centred, 0.0)
    noise = noise - noise.mean(axis=0)
    whole = _Squares.of(values, noise, z)
    total = max(whole.observed, whole.noise) or 1.0
    found = dict[str, Share]()
    for name, basis in plan.effects.items():
        part = _Squares.of(basis.T @ values, basis.T @ noise, z)
        limits = _interval(part, whole) if whole.noise > _TINY**2 * total else (None, None)
        found[name] = Share((part.observed - part.noise) / total, basis.shape[1], *limits)
    separable = sum(one.value for one in found.values())
    found[NOISE] = Share(whole.noise / total)
    if not plan.full:
        found[SHARED] = Share((whole.observed - whole.noise) / total - separable)
    return found


@dataclass(frozen=True)
class _Squares:
    """The sum of squares of an effect, and what noise adds to it: its mean, and for each draw F z of the noise."""

    observed: float
    noise: float
    across: Array  # (draws,), the product of the effect and the noise
    drawn: Array  # (draws,), the squares of the noise

    @staticmethod
    def of(values: Array, noise: Array, z: Array) -> _Squares:
        drawn = noise @ z
        return _Squares(
            float(values @ values), float(np.square(noise).sum()), values @ drawn, np.square(drawn).sum(axis=0)
        )

    def beside(self, other: _Squares) -> _Squares:
        """What is left of it without another part."""
        return _Squares(
            max(self.observed - other.observed, 0.0),
            max(self.noise - other.noise, 0.0),
            self.across - other.across,
            self.drawn - other.drawn,
        )

    def at(self, scale: float) -> Array:
        """The sums of squares of the draws if the true effect is `scale` times the observed one."""
        return scale**2 * self.observed + 2 * scale * self.across + self.drawn


def _interval(part: _Squares, whole: _Squares) -> tuple[float, float]:
    """The shares of the effects with which the observed one is neither in the lower nor in the upper tail.

    The true effect is taken to have the direction of the observed one, and all else its unbiased size.
    """
    rest = whole.beside(part)
    size = max(rest.observed - rest.noise, 0.0)
    others = whole.noise + rest.at(math.sqrt(size / rest.observed) if rest.observed else 0.0)
    observed = part.observed / (whole.noise + rest.observed)

    def reached(scale: float, level: float) -> bool:
        return bool(np.quantile(part.at(scale) / others, level) >= observed)

    def limit(level: float) -> float:
        low, high = 0.0, 1.0
        if reached(low, level):
            return 0.0
        while high < _FARTHEST and not reached(high, level):
            high *= 2
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if reached(middle, level) else (middle, high)
        effect = high**2 * part.observed
        return effect / (effect + size + whole.noise)

    return limit((1 + _CONFIDENCE) / 2), limit((1 - _CONFIDENCE) / 2)
