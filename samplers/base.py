"""What a sampler is, and the only sampling loop.

The σ clock: x = x₀ + σ ε, and a denoiser D(x, σ) estimates x₀. Its probability-flow ODE is dx/dσ = (x − D)/σ.
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

from samplers.denoiser import Counted, Denoiser
from samplers.levels import Levels

__all__ = ["AdaptiveSampler", "Denoiser", "Noise", "PathNoise", "Sampler", "between", "run"]


class Noise(Protocol):
    """The randomness of a stochastic sampler. Anything callable with a tensor will do.

    A noise that is a path over the levels (`PathNoise`) gives every sampler and every number of steps the same path.
    Samplers draw with `between(noise, …)`, which serves both kinds.
    """

    def __call__(self, like: Tensor, /) -> Tensor:
        """Fresh standard normal noise in the shape, dtype and device of `like`."""
        ...


@runtime_checkable
class PathNoise(Noise, Protocol):
    """A noise that also knows what is random between two levels."""

    def between(self, sigma: float, sigma_next: float, like: Tensor, /) -> Tensor:
        """Standard normal noise of the step from `sigma` to 0 < `sigma_next` < `sigma`, always the same.

        It is the increment z = (W(1/σ⁺²) − W(1/σ²))/√(1/σ⁺² − 1/σ²) of one Brownian motion W. Steps that do not
        overlap are therefore independent, and steps a → b → c compose: σ_c √(1 − σ_c²/σ_a²) z_ac =
        (σ_c²/σ_b²) σ_b √(1 − σ_b²/σ_a²) z_ab + σ_c √(1 − σ_c²/σ_b²) z_bc.
        """
        ...


class Sampler(ABC):
    """A sampler: `step` carries x from one noise level to the next.

    Subclass it as a frozen dataclass and write `step`; everything else has a default. A sampler can be built without
    options, and it is immutable and hashable. (A class that has all of these members serves as well.)
    """

    @property
    def order(self) -> int:
        """The order of convergence towards the probability-flow ODE; 1 by default.

        For a stochastic sampler it is that of the law of its samples (weak order), and 0 if it claims none. For a
        multistep sampler it is the order once its memory is full. The first steps have less to look back on and are of
        lower order; their share of the error shrinks at order 2 at most.
        """
        return 1

    @property
    def stochastic(self) -> bool:
        """Whether `step` draws noise, with the options of this instance; False by default."""
        return False

    def prepare(self, sigmas: tuple[float, ...]) -> Any:
        """The memory of the first step, for a sampler that must know the whole grid; None by default."""
        return None

    @abstractmethod
    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Any, noise: Noise
    ) -> tuple[Tensor, Any]:
        """x at `sigma` -> x at `sigma_next` < `sigma`, and the memory of the next step.

        `sigma_next` may be 0 at the last step. `memory` is what `prepare` returned at the first step, and then what the
        previous step returned. A step is pure: it writes neither to x nor to `memory`.
        """
        ...

    def nfe(self, sigmas: Sequence[float]) -> int | None:
        """How many times the sampler calls its denoiser on the grid `sigmas`, counted in a dry run.

        None for a sampler that chooses its steps by what it sees. A guided denoiser may make two network passes per
        call.
        """
        return _calls(self, tuple(map(float, sigmas)))

    def with_levels(self, levels: Levels) -> Sampler:
        """The same sampler for a model with these noise levels; itself if it does not depend on them."""
        return self


class AdaptiveSampler(Sampler):
    """A sampler that chooses its own steps, within a tolerance for the error of each."""

    def nfe(self, sigmas: Sequence[float]) -> None:
        """None: the number of calls depends on the images."""
        return None

    @abstractmethod
    def with_tolerance(self, rtol: float) -> Sampler:
        """The same sampler with the relative tolerance `rtol`, and an absolute one in proportion to it."""
        ...


@torch.no_grad()
def run(
    sampler: Sampler,
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise | None = None,
    on_step: Callable[[int, Tensor], object] | None = None,
) -> Tensor:
    """Carry x of shape (B, …) from `sigmas[0]` to `sigmas[-1]`: the only sampling loop in the project.

    x and the result are float64 if x is, else float32 (half types are lifted). After step i, `on_step(i, x)` is called
    with the new state, which it must not write to.

    Raises:
        ValueError: x is not floating, `sigmas` are not finite and strictly decreasing to 0 or above, or a stochastic
            sampler is given no `noise`. All of these are found before the first step.
    """
    levels = [float(sigma) for sigma in sigmas]
    if not levels or not isfinite(levels[0]) or not levels[-1] >= 0 or not all(a > b for a, b in pairwise(levels)):
        raise ValueError(f"sigmas must be finite and strictly decreasing to 0 or above, got {_short(levels)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be a floating tensor, got {x.dtype}")
    if noise is None and sampler.stochastic:
        raise ValueError(f"{sampler} is stochastic and needs noise, for example noise=samplers.seeded([0, 1, 2])")
    x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    draw = _no_noise if noise is None else noise
    memory = sampler.prepare(tuple(levels))
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        x, memory = sampler.step(denoise, x, sigma, sigma_next, memory, draw)
        if on_step is not None:
            on_step(i, x)
    return x


def between(noise: Noise, sigma: float, sigma_next: float, like: Tensor) -> Tensor:
    """Standard normal noise for the step from `sigma` to `sigma_next`: of the path if `noise` is one, else fresh.

    A path has no end at 0, so noise for a step to 0 is fresh.
    """
    return noise.between(sigma, sigma_next, like) if sigma_next > 0 and _is_path(noise) else noise(like)


def _is_path(noise: Noise) -> TypeGuard[PathNoise]:
    return issubclass(type(noise), PathNoise)  # isinstance of a protocol is 50 times slower, and this is every step


@lru_cache(maxsize=4096)  # a sweep asks again for every guidance and scale
def _calls(sampler: Sampler, sigmas: tuple[float, ...]) -> int:
    """The denoiser calls of a run on a single number, which is enough: they do not depend on x."""
    denoise = Counted(lambda x, sigma: x / (1 + sigma * sigma))
    run(sampler, denoise, torch.ones((1, 1), dtype=torch.float64), sigmas, torch.zeros_like)
    return denoise.calls


def _no_noise(like: Tensor) -> Tensor:
    raise ValueError("a sampler that says it is not stochastic asked for noise")


def _short(values: list[float]) -> str:
    return str(values) if len(values) < 9 else f"{values[:4]} … {values[-4:]}".replace("] … [", ", …, ")
