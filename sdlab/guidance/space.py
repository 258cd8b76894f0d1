"""Spaces of predictions: x̂₀, ε, v, and the velocity of flow matching.

All are affine functions of x̂₀ for given x and σ, in the σ clock x = x₀ + σ ε:
    x0    x̂₀
    eps   ε = (x − x̂₀)/σ
    v     α ε − √(1 − α²) x̂₀ with α = 1/√(1 + σ²)
    flow  ε − x̂₀
"""

from __future__ import annotations

from math import hypot
from typing import Literal, get_args

import torch
from torch import Tensor

Space = Literal["x0", "eps", "v", "flow"]
SPACES: tuple[Space, ...] = get_args(Space)


def to_space(space: Space, x0: Tensor, x: Tensor, sigma: float) -> Tensor:
    """The prediction x̂₀ (B, …) in another space."""
    if space == "x0":
        return x0
    of_x, of_x0 = _coefficients(space, sigma)
    return (of_x * x).add_(x0, alpha=of_x0)


def from_space(space: Space, value: Tensor, x: Tensor, sigma: float) -> Tensor:
    """The inverse of `to_space`."""
    if space == "x0":
        return value
    of_x, of_x0 = _coefficients(space, sigma)
    return torch.sub(value, x, alpha=of_x).div_(of_x0)


def _coefficients(space: Space, sigma: float) -> tuple[float, float]:
    """(a, b) with value = a x + b x̂₀."""
    match space:
        case "eps":
            return 1 / sigma, -1 / sigma
        case "v":
            return 1 / (sigma * hypot(1, sigma)), -hypot(1, sigma) / sigma
        case "flow":
            return 1 / sigma, -(1 + sigma) / sigma
    return 0.0, 1.0
