"""Spaces of predictions: x̂₀, ε, v, and the velocity of flow matching.

All are f (x̂₀ − o x) with numbers f and o that depend on σ, in the σ clock x = x₀ + σ ε:
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
    return x0 if space == "x0" else to_direction(space, x0, x, sigma).mul_(_factor(space, sigma))


def from_space(space: Space, value: Tensor, x: Tensor, sigma: float) -> Tensor:
    """The inverse of `to_space`."""
    if space == "x0":
        return value
    return torch.div(value, _factor(space, sigma)).add_(x, alpha=_origin(space, sigma))


def to_direction(space: Space, x0: Tensor, x: Tensor, sigma: float) -> Tensor:
    """The prediction x̂₀ (B, …) in another space without its factor f, always as a new tensor."""
    return torch.sub(x0, x, alpha=_origin(space, sigma))


def _origin(space: Space, sigma: float) -> float:
    """o: at x̂₀ = o x the prediction in the space is 0."""
    return {"x0": 0.0, "eps": 1.0, "v": 1 / (1 + sigma * sigma), "flow": 1 / (1 + sigma)}[space]


def _factor(space: Space, sigma: float) -> float:
    """f."""
    return {"x0": 1.0, "eps": -1 / sigma, "v": -hypot(1, sigma) / sigma, "flow": -(1 + sigma) / sigma}[space]
