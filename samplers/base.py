"""What a denoiser and a sampler are, and the only sampling loop.

The σ clock: x = x₀ + σ ε, and a denoiser D(x, σ) estimates x₀. Its probability-flow ODE is dx/dσ = (x − D)/σ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isfinite
from typing import Any, ClassVar, Protocol

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
    """Where a stochastic rule takes its randomness from."""

    def __call__(self, like: Tensor, /) -> Tensor:
        """Fresh standard normal noise in the shape, dtype and device of `like`."""
        ...


class Sampler(Protocol):
    """A rule that carries x from one noise level to the next: a frozen dataclass that can be built without options.

    `order` is the global order of convergence towards the probability-flow ODE; for a stochastic rule, that of the law
    of its samples (weak order). `stochastic` tells whether the rule, with its options, draws noise: ask an instance.
    """

    order: ClassVar[int]

    @property
    def stochastic(self) -> bool:
        """Whether `step` draws noise."""
        ...

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Any, noise: Noise
    ) -> tuple[Tensor, Any]:
        """x at `sigma` -> x at `sigma_next` < `sigma`, and what the next step must remember.

        Pure: x and `memory` are not written to. `memory` is None at the first step, then what the last one returned.
        `sigma_next` may be 0 at the last step.
        """
        ...

    def nfe(self, sigmas: Sequence[float]) -> int:
        """How many denoiser calls the rule makes on the grid `sigmas`."""
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
    memory = None
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        x, memory = rule.step(denoise, x, sigma, sigma_next, memory, draw)
        if on_step is not None:
            on_step(i, x)
    return x


def nfe(rule: Sampler, sigmas: Sequence[float]) -> int:
    """How many denoiser calls `run(rule, …, sigmas)` makes; a guided denoiser may call its network twice in each."""
    return rule.nfe(sigmas)


def _no_noise(like: Tensor) -> Tensor:
    raise ValueError("a rule that says it is not stochastic asked for noise")


def _short(values: list[float]) -> str:
    return str(values) if len(values) < 9 else f"{values[:4]} … {values[-4:]}".replace("] … [", ", …, ")
