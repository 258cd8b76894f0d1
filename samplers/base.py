"""The sampler base class and the sampling loop.

In the σ clock, x = x₀ + σ ε and a denoiser D(x, σ) estimates x₀. Its probability-flow ODE is dx/dσ = (x − D)/σ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from math import isfinite
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from samplers.denoiser import Counted, Denoiser, is_stepped
from samplers.levels import Levels

__all__ = ["AdaptiveSampler", "Denoiser", "Noise", "PathNoise", "Sampler", "between", "run"]


class Noise(Protocol):
    """The noise source of a stochastic sampler: any function of a tensor.

    With a `PathNoise`, all samplers and step counts share one path over the noise levels. Samplers draw with
    `between(noise, …)`, which handles both kinds.
    """

    def __call__(self, like: Tensor, /) -> Tensor:
        """Fresh standard normal noise in the shape, dtype and device of `like`."""
        ...


@runtime_checkable
class PathNoise(Noise, Protocol):
    """A noise source that also returns the increment between two noise levels."""

    def between(self, sigma: float, sigma_next: float, like: Tensor, /) -> Tensor:
        """Standard normal noise for the step from `sigma` to 0 < `sigma_next` < `sigma`, the same at every call.

        It is the increment z = (W(1/σ⁺²) − W(1/σ²))/√(1/σ⁺² − 1/σ²) of one Brownian motion W. Non-overlapping steps are
        therefore independent, and steps a → b → c compose: σ_c √(1 − σ_c²/σ_a²) z_ac = (σ_c²/σ_b²) σ_b √(1 − σ_b²/σ_a²)
        z_ab + σ_c √(1 − σ_c²/σ_b²) z_bc.
        """
        ...


class Sampler(ABC):
    """A sampler: `step` takes x from one noise level to the next.

    Subclass it as a frozen dataclass and implement `step`; everything else has a default. A sampler can be built
    without options and is immutable and hashable. A class with all of these members also works without subclassing.
    """

    @property
    def order(self) -> int:
        """The order of convergence towards the probability-flow ODE; 1 by default.

        For a stochastic sampler this is the weak order, the order in the law of its samples. 0 claims no order. For a
        multistep sampler it is the order once the memory is full. The first steps have fewer predictions and a lower
        order, so their share of the error shrinks at order 2 at most.
        """
        return 1

    @property
    def stochastic(self) -> bool:
        """Whether `step` draws noise, with the options of this instance; False by default."""
        return False

    def prepare(self, sigmas: tuple[float, ...]) -> Any:
        """The memory passed to the first step, for samplers that need the whole grid; None by default."""
        return None

    @abstractmethod
    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Any, noise: Noise
    ) -> tuple[Tensor, Any]:
        """x at `sigma` -> x at `sigma_next` < `sigma`, and the memory for the next step.

        `sigma_next` may be 0 at the last step. `memory` comes from `prepare` at the first step and from the previous
        step after that. A step is pure: it does not modify x or `memory`.
        """
        ...

    def nfe(self, sigmas: Sequence[float]) -> int | None:
        """The number of denoiser calls on the grid `sigmas`, counted in a dry run.

        None for an adaptive sampler. A guided denoiser may make two network passes per call.
        """
        return _calls(self, tuple(map(float, sigmas)))

    def with_levels(self, levels: Levels) -> Sampler:
        """The same sampler for a model with this noise schedule; `self` if it does not depend on it."""
        return self


class AdaptiveSampler(Sampler):
    """A sampler that chooses its step sizes to keep the error of each step within a tolerance."""

    def nfe(self, sigmas: Sequence[float]) -> None:
        """None: the number of calls depends on the images."""
        return None

    @abstractmethod
    def with_tolerance(self, rtol: float) -> Sampler:
        """The same sampler with the relative tolerance `rtol`, and a proportional absolute tolerance."""
        ...


@torch.no_grad()
def run(
    sampler: Sampler,
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise | None = None,
    on_step: Callable[[int, Tensor], object] | None = None,
    memory: Any = None,
) -> Tensor:
    """Sample: take x of shape (B, …) from `sigmas[0]` to `sigmas[-1]`. This is the only sampling loop.

    The steps and the result are float64 if x is float64, otherwise float32 (half precision is upcast). After step i,
    `on_step(i, x)` is called with the new state, which it must not modify. A `denoise` with a method `begin_step` is
    notified of the level at which each step begins. `memory` is that of the first step, by default the one that the
    sampler prepares; `samplers.invert` returns it with the noise.

    Raises:
        ValueError: x is not floating-point, `sigmas` are not finite and strictly decreasing to 0 or above, or a
            stochastic sampler gets no `noise`; all are checked before the first step. Or a step does not return x in
            its shape with a memory.
    """
    levels = [float(sigma) for sigma in sigmas]
    if not levels or not isfinite(levels[0]) or not levels[-1] >= 0 or not all(a > b for a, b in pairwise(levels)):
        raise ValueError(f"sigmas must be finite and strictly decreasing to 0 or above, got {_short(levels)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be a floating-point tensor, got {x.dtype}")
    if noise is None and sampler.stochastic:
        raise ValueError(f"{sampler} is stochastic and needs noise, for example noise=samplers.seeded([0, 1, 2])")
    x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    draw = _no_noise if noise is None else noise
    memory = sampler.prepare(tuple(levels)) if memory is None else memory
    begin_step = denoise.begin_step if is_stepped(denoise) else None
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        if begin_step is not None:
            begin_step(sigma)
        x, memory = _checked(sampler.step(denoise, x, sigma, sigma_next, memory, draw), x.shape, i)
        if on_step is not None:
            on_step(i, x)
    return x


def _checked(made: tuple[Tensor, Any], shape: torch.Size, i: int) -> tuple[Tensor, Any]:
    """What step `i` returned. A wrong shape could otherwise broadcast to values that look right."""
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[0], Tensor):
        raise ValueError(f"step {i + 1} must return (x, memory), got {type(made).__name__}")
    if made[0].shape != shape:
        raise ValueError(f"step {i + 1} turns x of shape {tuple(shape)} into {tuple(made[0].shape)}")
    return made


def between(noise: Noise, sigma: float, sigma_next: float, like: Tensor) -> Tensor:
    """Standard normal noise for the step from `sigma` to `sigma_next`: from the path if `noise` is one, else fresh.

    A path does not reach 0, so noise for a step to 0 is fresh.
    """
    return noise.between(sigma, sigma_next, like) if sigma_next > 0 and _is_path(noise) else noise(like)


def _is_path(noise: Noise) -> TypeGuard[PathNoise]:
    return issubclass(type(noise), PathNoise)  # isinstance of a protocol is 50 times slower, at every step


@lru_cache(maxsize=4096)  # a sweep repeats the call for every guidance strategy and scale
def _calls(sampler: Sampler, sigmas: tuple[float, ...]) -> int:
    """The number of denoiser calls, from a run on a scalar. It does not depend on x."""
    denoise = Counted(lambda x, sigma: x / (1 + sigma * sigma))
    run(sampler, denoise, torch.ones((1, 1), dtype=torch.float64), sigmas, torch.zeros_like)
    return denoise.calls


def _no_noise(like: Tensor) -> Tensor:
    raise ValueError("a sampler declared as not stochastic draws noise; its `stochastic` must be True")


def _short(values: list[float]) -> str:
    return str(values) if len(values) < 9 else f"{values[:4]} … {values[-4:]}".replace("] … [", ", …, ")
