"""Inversion: from a picture to the noise that a sampler draws it from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from samplers.base import Sampler, run
from samplers.denoiser import Denoiser


@runtime_checkable
class Invertible(Protocol):
    """A sampler that can take its steps upwards."""

    @property
    def invertible(self) -> bool:
        """Whether it can with the options of this instance."""
        ...

    def step_up(self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Any) -> tuple[Tensor, Any]:
        """x at `sigma` -> x at `sigma_next` > `sigma`, and the memory for the next step; None before the first one.

        The memory after the last step is the one with which `step` goes back the same way.
        """
        ...


def is_invertible(sampler: object) -> TypeGuard[Invertible]:
    """Whether `invert` takes this sampler."""
    return isinstance(sampler, Invertible) and sampler.invertible


@torch.no_grad()
def invert(sampler: Sampler, denoise: Denoiser, x: Tensor, sigmas: Sequence[float]) -> tuple[Tensor, Any]:
    """Take x of shape (B, …) from `sigmas[-1]` up to `sigmas[0]`, on the grid it is drawn with: its noise and a memory.

    `run(sampler, denoise, noise, sigmas, memory=memory)` draws x again. For `belm`, `bdia` and `edict` it is x to
    rounding. Their memory is a second state, without which the way back is another one. `ddim` has no memory, and comes
    back with an error that its `refinements` make smaller.

    D must depend on x and σ alone: guidance with a state, such as momentum, has no such inverse.

    The result is float64 if x is float64, otherwise float32. A step makes as many calls as one downwards; with DDIM,
    1 + `refinements`.

    Raises:
        ValueError: the sampler cannot be inverted, x is not floating-point, or `sigmas` are not finite, positive and
            strictly decreasing. A grid that ends at 0 has no inverse: its last step returns x̂₀.
    """
    if not is_invertible(sampler):
        raise ValueError(f"{sampler} cannot be inverted; belm, bdia, edict and ddim (eta 0, without clip) can")
    levels = [float(sigma) for sigma in sigmas]
    if not levels or not isfinite(levels[0]) or not levels[-1] > 0 or not all(a > b for a, b in pairwise(levels)):
        raise ValueError(
            "the sigmas of an inversion must be finite, positive and strictly decreasing; "
            "a grid with ending='stop_at_sigma_min' ends above 0"
        )
    if not x.is_floating_point():
        raise ValueError(f"x must be a floating-point tensor, got {x.dtype}")
    x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    memory = None
    for sigma, sigma_next in pairwise(reversed(levels)):
        x, memory = sampler.step_up(denoise, x, sigma, sigma_next, memory)
    return x, memory


def round_trip(sampler: Sampler, denoise: Denoiser, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """x at `sigmas[-1]`, inverted to `sigmas[0]` and drawn again on the same grid, in the shape of x.

    Raises:
        ValueError: as `invert`.
    """
    noise, memory = invert(sampler, denoise, x, sigmas)
    return run(sampler, denoise, noise, sigmas, memory=memory)


def round_trip_error(sampler: Sampler, denoise: Denoiser, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """How far x comes back from where it was (`round_trip`), (B,): root mean square over the values of an image.

    Raises:
        ValueError: as `invert`.
    """
    return (round_trip(sampler, denoise, x, sigmas) - x).flatten(1).square().mean(dim=1).sqrt()
