"""Inversion of DDIM: from a picture to the noise that DDIM draws it from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite

import torch
from torch import Tensor

from samplers.base import run
from samplers.checks import whole
from samplers.ddim import DDIM
from samplers.denoiser import Denoiser, is_stepped


@torch.no_grad()
def invert(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], refinements: int = 0) -> Tensor:
    """Invert DDIM (eta 0): take x of shape (B, …) from `sigmas[-1]` up to `sigmas[0]`, on the grid it is drawn with.

    A step of DDIM from σ down to σ⁺ is x⁺ = x + (σ⁺ − σ) ε̂(x, σ) with ε̂ = (x − D(x, σ))/σ. Its inverse is the solution
    of x = x⁺ + (σ − σ⁺) ε̂(x, σ). DDIM inversion takes ε̂(x⁺, σ⁺) in the place of ε̂(x, σ): Euler's method upwards, whose
    error falls at first order (Song, Meng, Ermon 2021, arXiv:2010.02502, section 4.3).

    Each of the `refinements` puts the x found so far into the right side of the equation, for one more call per step.
    The error of a step shrinks by (σ − σ⁺) |∂ε̂/∂x| each time, so x converges to the exact inverse, where that is
    below 1. It is on Gaussian data. Long steps, large guidance scales and places between modes can exceed it.

    D must depend on x and σ alone: guidance with a state, such as momentum, has no such inverse.

    The result is float64 if x is float64, otherwise float32. Calls per image: (1 + `refinements`) per step.

    Raises:
        ValueError: x is not floating-point, `sigmas` are not finite, positive and strictly decreasing, or `refinements`
            is not a whole number of 0 or more. A grid that ends at 0 has no inverse: its last step returns x̂₀.
    """
    levels = [float(sigma) for sigma in sigmas]
    if not levels or not isfinite(levels[0]) or not levels[-1] > 0 or not all(a > b for a, b in pairwise(levels)):
        raise ValueError(
            "the sigmas of an inversion must be finite, positive and strictly decreasing; "
            "a grid with ending='stop_at_sigma_min' ends above 0"
        )
    if not x.is_floating_point():
        raise ValueError(f"x must be a floating-point tensor, got {x.dtype}")
    whole("refinements", refinements, 0)
    x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    begin_step = denoise.begin_step if is_stepped(denoise) else None
    for below, above in pairwise(reversed(levels)):
        start, seen_at = x, below
        for _ in range(1 + refinements):
            if begin_step is not None:
                begin_step(seen_at)
            x = start + (above - below) / seen_at * (x - denoise(x, seen_at))
            seen_at = above
    return x


def round_trip_error(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], refinements: int = 0) -> Tensor:
    """How far x comes back from where it was, (B,): root mean square over the values of an image.

    x at `sigmas[-1]` is inverted to `sigmas[0]` and drawn again by DDIM on the same grid.

    Raises:
        ValueError: as `invert`.
    """
    back = run(DDIM(), denoise, invert(denoise, x, sigmas, refinements), sigmas)
    return (back - x).flatten(1).square().mean(dim=1).sqrt()
