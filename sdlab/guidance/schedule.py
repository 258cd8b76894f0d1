"""Guidance whose strength depends on the noise level."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import atan, cos, gamma, log, pi
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from samplers.checks import look_up, positive, within
from sdlab.guidance.base import COND, Level, Query, State, Strategy, queries_of

STEEPEST = 50  # a and b of the beta density; with more the gamma function soon overflows


def time_of(sigma: float) -> float:
    """t = (2/π) arctan σ: 0 for data, 1 for pure noise. This is the time of the cosine noise schedule, σ = tan(πt/2).

    It depends on σ alone, so a schedule means the same for every model and grid.
    """
    return 2 / pi * atan(sigma)


def linear(t: float, low: float = 0.0) -> float:
    """2 (1 − t), but at least `low` (Wang et al. 2024, arXiv:2404.13040: linear, and clamped linear)."""
    return max(low, 2 * (1 - t))


def cosine(t: float, low: float = 0.0) -> float:
    """1 + cos πt, but at least `low` (Wang et al. 2024, arXiv:2404.13040)."""
    return max(low, 1 + cos(pi * t))


def power(t: float, exponent: float = 2.0) -> float:
    """(p + 1)(1 − t)ᵖ with the exponent p > 0."""
    positive("schedule: the exponent of power", exponent)
    return float((exponent + 1) * (1 - t) ** exponent)


def beta(t: float, a: float = 2.0, b: float = 3.0) -> float:
    """The density of the Beta(a, b) distribution at 1 − t, with a and b in [1, 50]; 0 at both ends if they are above.

    This is the weight of β-CFG, applied there to the fraction of steps (Malarz et al. 2025, arXiv:2502.10574).
    """
    for value in (a, b):
        within("schedule: each number of beta", value, 1, STEEPEST)
    return float(gamma(a + b) / (gamma(a) * gamma(b)) * (1 - t) ** (a - 1) * t ** (b - 1))


SHAPES: dict[str, Callable[..., float]] = {"beta": beta, "cosine": cosine, "linear": linear, "power": power}


@dataclass(frozen=True)
class Scheduled:
    """D(c) + m(σ) (D_guided − D(c)) for any strategy: m = 0 is the plain conditional model, m = 1 the strategy itself.

    For classifier-free guidance this is the weight 1 + m(σ)(scale − 1). The shapes of `SHAPES` are functions of
    t = (2/π) arctan σ and have mean 1 over t (if `low` is 0), so that the scale keeps its meaning. A table of pairs
    (σ, m), in any order, is interpolated in log σ, and constant beyond its ends.

    Raises:
        ValueError: the shape is unknown or a parameter invalid, or the table has no rows of two numbers with σ above 0.
    """

    usual: ClassVar[str] = "linear"

    strategy: Strategy
    shape: str = "linear"
    parameters: tuple[float, ...] = ()
    table: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.table:
            shape = look_up("schedule", self.shape, SHAPES)
            most = len(inspect.signature(shape).parameters) - 1
            if len(self.parameters) > most:
                numbers = f"{most} number{'s' * (most != 1)}"
                raise ValueError(f"schedule: {self.shape} takes {numbers} at most, got {list(self.parameters)}")
            for value in self.parameters:
                within(f"schedule: each number of {self.shape}", value, 0)
            shape(0.5, *self.parameters)
        for sigma, weight in self.table:
            positive("schedule: each level", sigma)
            within("schedule: each weight", weight, 0)
        levels = [sigma for sigma, _ in self.table]
        for sigma in levels:
            if levels.count(sigma) > 1:
                raise ValueError(f"schedule: the level {sigma!r} is given twice")

    @classmethod
    def of(cls, strategy: Strategy, option: str | Sequence[Any]) -> Self:
        """The strategy with the option `schedule`: a shape, a shape with its numbers, or a table of pairs (σ, m).

        Raises:
            ValueError: the option has another form.
        """
        match option:
            case str(shape) | [str(shape)]:
                return cls(strategy, shape)
            case [str(shape), *numbers]:
                return cls(strategy, shape, tuple(numbers))
            case [[_, _], *_] if all(isinstance(row, list | tuple) and len(row) == 2 for row in option):
                return cls(strategy, "table", table=tuple(map(tuple, option)))
        raise ValueError(
            'schedule must be a shape like "linear", with numbers like ["power", 3.0], or a table of pairs like '
            f"[[14.6, 0.0], [1.0, 2.0]]; got {option!r}"
        )

    def weight(self, sigma: float) -> float:
        """m at level σ."""
        if not self.table:
            return SHAPES[self.shape](time_of(sigma), *self.parameters)
        levels, weights = zip(*sorted(self.table), strict=True)
        return float(np.interp(log(sigma), np.log(levels), weights))

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """Those of the strategy and D(c); one where m is 0."""
        return self.queries_given(sigma, None)

    def queries_given(self, sigma: Level, state: State) -> tuple[Query, ...]:
        """Those of the strategy and D(c); one where m is 0."""
        weight = self.weight(sigma)
        if weight == 0:
            return (COND,)
        inner = queries_of(self.strategy, sigma, state)
        return inner if weight == 1 else tuple(dict.fromkeys((*inner, COND)))

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """D(c) moved by m(σ) times what the strategy moves it."""
        weight = self.weight(sigma)
        if weight == 0:
            return predictions[0], state
        inner = queries_of(self.strategy, sigma, None if state is None else tuple(rows[0] for rows in state))
        guided, state = self.strategy.combine(predictions[: len(inner)], x, sigma, state)
        if weight == 1:
            return guided, state
        plain = predictions[(*inner, COND).index(COND)]
        return plain + weight * (guided - plain), state
