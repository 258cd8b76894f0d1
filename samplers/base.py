"""What a denoiser and a sampler are, and the only sampling loop.

The σ clock: x = x₀ + σ ε, and a denoiser D(x, σ) estimates x₀. Its probability-flow ODE is dx/dσ = (x − D)/σ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor


class Denoiser(Protocol):
    """D(x, σ) -> x̂₀, the posterior mean of the data given x = x₀ + σ ε."""

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        """x of shape (B, …) -> x̂₀ of the same shape, dtype and device, which the rule may keep but not write to.

        `sigma` is a float above 0, or a tensor of shape (B,) where a rule gives each image a level of its own.
        """
        ...


class Noise(Protocol):
    """Where a stochastic rule takes its randomness from; anything callable with a tensor will do.

    A noise that is a path over the levels (`PathNoise`) gives the same path to every rule and number of steps. Rules
    ask `between(noise, …)`, which serves both kinds.
    """

    def __call__(self, like: Tensor, /) -> Tensor:
        """Fresh standard normal noise in the shape, dtype and device of `like`."""
        ...


class PathNoise(Noise, Protocol):
    """A noise that also knows what is random between two levels."""

    def between(self, sigma: float, sigma_next: float, like: Tensor, /) -> Tensor:
        """Standard normal noise of the step from `sigma` to 0 < `sigma_next` < `sigma`, always the same.

        It is the increment z = (W(1/σ⁺²) − W(1/σ²))/√(1/σ⁺² − 1/σ²) of one Brownian motion W, so steps that do not
        overlap are independent, and steps a → b → c compose: σ_c √(1 − σ_c²/σ_a²) z_ac =
        (σ_c²/σ_b²) σ_b √(1 − σ_b²/σ_a²) z_ab + σ_c √(1 − σ_c²/σ_b²) z_bc.
        """
        ...


class Sampler(Protocol):
    """A rule that carries x from one noise level to the next: a frozen dataclass that can be built without options.

    `order` is the global order of convergence towards the probability-flow ODE; for a stochastic rule, that of the law
    of its samples (weak order), and 0 where the rule claims none. Of a rule that looks back it is the order once its
    memory is full: the first steps, with less to look back on, are of lower order, and their share of the error shrinks
    at no more than order 2. `stochastic` tells whether the rule, with its options, draws noise. Ask an instance for
    both.

    A rule that must know the whole grid may also have `prepare(sigmas)`: `run` calls it once, and what it returns takes
    the place of None as the memory of the first step.
    """

    @property
    def order(self) -> int:
        """The order of convergence."""
        ...

    @property
    def stochastic(self) -> bool:
        """Whether `step` draws noise."""
        ...

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Any, noise: Noise
    ) -> tuple[Tensor, Any]:
        """x at `sigma` -> x at `sigma_next` < `sigma`, and what the next step must remember.

        Pure: x and `memory` are not written to. `memory` is None (or what `prepare` gave) at the first step, then what
        the last one returned.
        `sigma_next` may be 0 at the last step.
        """
        ...

    def nfe(self, sigmas: Sequence[float]) -> int | None:
        """How many denoiser calls the rule makes on the grid `sigmas`; None where only the run itself can tell."""
        ...


@torch.no_grad()
def run(
    rule: Sampler,
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise | None = None,
    on_step: Callable[[int, Tensor], object] | None = None,
) -> Tensor:
    """Carry x of shape (B, …) from `sigmas[0]` to `sigmas[-1]`: the only sampling loop in the project.

    x and the result are float64 if x is, else float32 (half types are lifted). After step i, `on_step(i, x)` is called
    with the new state, which it must not write to. Raises ValueError, before the first step, when x is not floating,
    when `sigmas` are not finite and strictly decreasing to 0 or above, and when a stochastic rule is given no `noise`.
    """
    levels = [float(sigma) for sigma in sigmas]
    if not levels or not isfinite(levels[0]) or not levels[-1] >= 0 or not all(a > b for a, b in pairwise(levels)):
        raise ValueError(f"sigmas must be finite and strictly decreasing to 0 or above, got {_short(levels)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be a floating tensor, got {x.dtype}")
    if noise is None and rule.stochastic:
        raise ValueError(f"{rule} is stochastic and needs noise, for example noise=samplers.seeded([0, 1, 2])")
    x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    draw = _no_noise if noise is None else noise
    prepare = getattr(rule, "prepare", None)
    memory = None if prepare is None else prepare(tuple(levels))
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        x, memory = rule.step(denoise, x, sigma, sigma_next, memory, draw)
        if on_step is not None:
            on_step(i, x)
    return x


def between(noise: Noise, sigma: float, sigma_next: float, like: Tensor) -> Tensor:
    """Standard normal noise for the step from `sigma` to `sigma_next`: of the path where `noise` is one, else fresh.

    A path has no end at 0: noise for a step to there is fresh.
    """
    path: Callable[[float, float, Tensor], Tensor] | None = getattr(noise, "between", None)
    return noise(like) if path is None or sigma_next == 0 else path(sigma, sigma_next, like)


def nfe(rule: Sampler, sigmas: Sequence[float]) -> int | None:
    """How many denoiser calls `run(rule, …, sigmas)` makes; a guided denoiser may call its network twice in each.

    None for a rule that chooses its steps by what it sees.
    """
    return rule.nfe(sigmas)


def _no_noise(like: Tensor) -> Tensor:
    raise ValueError("a rule that says it is not stochastic asked for noise")


def _short(values: list[float]) -> str:
    return str(values) if len(values) < 9 else f"{values[:4]} … {values[-4:]}".replace("] … [", ", …, ")
