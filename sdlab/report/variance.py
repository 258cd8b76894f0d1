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
from collections.abc import Callable, Mapping, Sequence
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
_MOST_WORK = 10**9  # of a decomposition that takes about a second

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Effect:
    """An orthogonal projection P of the values of K cells, with its degrees of freedom."""

    freedom: int
    of: Callable[[Array], Array]  # of columns (K, M): columns with the lengths and products of those of P x
    own: Array | float  # the diagonal of P, (K,), or the same number for all cells


@dataclass(frozen=True)
class Design:
    """The effects of a plan."""

    effects: dict[str, Effect]
    full: bool  # whether every combination of levels is there once
    pairs: bool = True  # whether interactions of two factors are separate


def design(factors: Mapping[str, Sequence[str]]) -> Design:
    """Main effects, two-way interactions and all higher ones of factors, each given by its levels in the K cells.

    Effects without degrees of freedom are left out, such as that of a factor which changes only with another. In a plan
    that is not full, the interactions of two factors with very many levels are not separated from higher ones.
    """
    levels = {name: np.unique(np.array(one), return_inverse=True)[1] for name, one in factors.items()}
    cells, counts = len(next(iter(levels.values()))), {name: int(one.max()) + 1 for name, one in levels.items()}
    full = len(set(zip(*factors.values(), strict=True))) == cells == math.prod(counts.values())
    columns = sum(a * b for a, b in itertools.combinations(counts.values(), 2))
    pairs = full or cells * columns**2 <= _MOST_WORK
    found = _of_means(levels, counts) if full else _of_columns(levels, counts, pairs)
    return Design({name: one for name, one in found.items() if one.freedom}, full, pairs)


def _of_means(levels: Mapping[str, NDArray[np.intp]], counts: Mapping[str, int]) -> dict[str, Effect]:
    """The effects of a full plan, which are differences of means over its cells."""
    order, sizes, cells = np.lexsort([*levels.values()][::-1]), tuple(counts.values()), math.prod(counts.values())

    def effect(*axes: int) -> Effect:
        freedom, groups = (math.prod(sizes[axis] - less for axis in axes) for less in (1, 0))

        def of(x: Array) -> Array:
            means: Array = _deviation(x[order].reshape(*sizes, x.shape[1]), axes)
            return means.reshape(groups, x.shape[1]) * math.sqrt(cells / groups)

        return Effect(freedom, of, freedom / cells)

    every = range(len(sizes))
    chosen = [(axis,) for axis in every] + [*itertools.combinations(every, 2)]
    names = [*levels]
    found = {" × ".join(names[axis] for axis in axes): effect(*axes) for axes in chosen}
    freedom = cells - 1 - sum(one.freedom for one in found.values())

    def rest(x: Array) -> Array:
        grid = x[order].reshape(*sizes, x.shape[1])
        left = grid - grid.mean(axis=tuple(every), keepdims=True)
        for axes in chosen:
            left -= _deviation(grid, axes)
        return left.reshape(x.shape)

    return {**found, REST: Effect(freedom, rest, freedom / cells)}


def _deviation(grid: Array, axes: Sequence[int]) -> Array:
    """The means over all axes but one or two and the last, less what the mean of all and those of one axis explain."""
    factors = range(grid.ndim - 1)
    means = grid.mean(axis=tuple(axis for axis in factors if axis not in axes), keepdims=True)
    for axis in axes if len(axes) > 1 else ():
        means = means - _deviation(means, (axis,))
    deviation: Array = means - grid.mean(axis=tuple(factors), keepdims=True)
    return deviation


def _of_columns(levels: Mapping[str, NDArray[np.intp]], counts: Mapping[str, int], pairs: bool) -> dict[str, Effect]:
    """The effects of any plan, each beyond all that do not contain it."""
    main = {name: np.equal.outer(one, np.arange(counts[name])) for name, one in levels.items()}
    columns: dict[tuple[str, ...], Array] = {(name,): one.astype(float) for name, one in main.items()}
    for a, b in itertools.combinations(levels, 2) if pairs else ():
        columns[a, b] = (main[a][:, :, None] & main[b][:, None, :]).reshape(len(main[a]), -1).astype(float)
    mean = np.ones((len(next(iter(main.values()))), 1))
    effects = {}
    for name, own in columns.items():
        others = _span(np.hstack([mean, *(one for other, one in columns.items() if not set(name) <= set(other))]))
        beyond = own - others @ (others.T @ own)
        effects[" × ".join(name)] = _onto(_span(beyond, _TINY * len(own)))
    known = _span(np.hstack([mean, *columns.values()]))
    rest = Effect(len(known) - known.shape[1], lambda x: x - known @ (known.T @ x), 1 - np.square(known).sum(axis=1))
    return {**effects, REST: rest}


def _span(columns: Array, least: float | None = None) -> Array:
    """An orthonormal basis of the columns, (K, rank), without directions shorter than `least`, or hardly long."""
    u, size, _ = np.linalg.svd(columns, full_matrices=False)
    basis: Array = u[:, size > (_TINY * size[0] if least is None else least)]
    return basis


def _onto(basis: Array) -> Effect:
    return Effect(basis.shape[1], lambda x: basis.T @ x, np.square(basis).sum(axis=1))


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
        noise: a matrix F (K, M) whose F Fᵀ is the covariance of their errors, where M is 0 if they have none, or the
            standard errors (K,) of independent ones.
        plan: the effects of the K cells.
    """
    z = np.random.default_rng(0).standard_normal((noise.shape[-1], _DRAWS))
    centred = values - values.mean()
    values = np.where(np.abs(centred).max() > _ROUNDING * np.abs(values).max(), centred, 0.0)
    everything = Effect(len(values) - 1, lambda x: x - x.mean(axis=0), 1 - 1 / len(values))
    whole = _Squares.of(everything, values, noise, z)
    total = max(whole.observed, whole.noise) or 1.0
    found = dict[str, Share]()
    for name, effect in plan.effects.items():
        part = _Squares.of(effect, values, noise, z)
        limits = _interval(part, whole) if whole.noise > _TINY**2 * total else (None, None)
        found[name] = Share((part.observed - part.noise) / total, effect.freedom, *limits)
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
    def of(effect: Effect, values: Array, noise: Array, z: Array) -> _Squares:
        """Those of values (K,) with noise as in `shares`, and of its draws F z, z (M, draws)."""
        own = effect.of(values[:, None])[:, 0]
        observed = float(own @ own)
        if noise.ndim == 1:
            drawn = effect.of(noise[:, None] * z)
            mean = float((effect.own * np.square(noise)).sum())
            return _Squares(observed, mean, own @ drawn, np.square(drawn).sum(axis=0))
        found = effect.of(noise)
        product = found.T @ found  # (M, M), since M is often smaller than the number of cells
        squares = np.maximum((z * (product @ z)).sum(axis=0), 0.0)
        return _Squares(observed, float(np.trace(product)), (own @ found) @ z, squares)

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
