"""Guidance in an interval of noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Self

from torch import Tensor

from samplers.checks import one_of, within
from sdlab.guidance.base import COND, Level, Query, State, Strategy, queries_of


@dataclass(frozen=True)
class Interval:
    """Any strategy for low < σ ≤ high, and the plain conditional model at other levels, which costs one pass.

    With `per` "call", σ is the level of each denoiser call. With "step" it is the level at which the step begins, as in
    the authors' code. Then all calls of a step are guided, or none. They differ for samplers with several calls per
    step. `high` may be infinite. (Kynkäänniemi et al. 2024, arXiv:2404.07724, sec. 3)

    Raises:
        ValueError: `low` is below 0, `high` is not above it, or `per` is neither "call" nor "step".
    """

    usual: ClassVar[tuple[float, float]] = (0.28, 5.42)  # the paper's, for latent diffusion; `cfg_interval` has it too

    strategy: Strategy
    low: float
    high: float
    per: str = "call"

    def __post_init__(self) -> None:
        within("interval: its low end", self.low, 0)
        if self.high != inf:
            within("interval: its high end", self.high, 0)
        if not self.low < self.high:
            raise ValueError(f"interval must be [low, high] with low < high, got [{self.low!r}, {self.high!r}]")
        one_of("interval: its third value", self.per, ("call", "step"))

    @classmethod
    def of(cls, strategy: Strategy, option: Sequence[Any]) -> Self:
        """The strategy with the option `interval = [low, high]` or `[low, high, "step"]`.

        Raises:
            ValueError: the option has another form.
        """
        if isinstance(option, str) or len(option) not in (2, 3):
            raise ValueError(f'interval must be [low, high] or [low, high, "step"], got {option!r}')
        return cls(strategy, *option)

    @property
    def limits(self) -> tuple[float, float]:
        """The interval."""
        return self.low, self.high

    def acts(self, sigma: Level) -> bool:
        """Whether the call, or the beginning of its step, is inside."""
        return self.low < (sigma.step if self.per == "step" else sigma) <= self.high

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """Those of the strategy inside the interval, otherwise one."""
        return self.queries_given(sigma, None)

    def queries_given(self, sigma: Level, state: State) -> tuple[Query, ...]:
        """Those of the strategy inside the interval, otherwise one."""
        return queries_of(self.strategy, sigma, state) if self.acts(sigma) else (COND,)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """The strategy's x̂₀ inside the interval, D(c) outside. The state waits until the next level inside."""
        if not self.acts(sigma):
            return predictions[0], state
        return self.strategy.combine(predictions, x, sigma, state)
