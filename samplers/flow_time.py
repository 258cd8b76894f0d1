"""Runge–Kutta steps in the time of a rectified flow, for samplers with a `clock`.

A flow has the state x_t = (1 − t) x₀ + t ε and the velocity v = dx_t/dt = ε − x₀. With t = σ/(1 + σ) and x_t = x/(1 +
σ) a step by a slope v is
    x_t⁺ = x_t + (t⁺ − t) v     ⇔     x⁺ = [(1 + σ⁺) x + (σ⁺ − σ) v]/(1 + σ)

An Euler step is the same in σ and in t. The steps of a higher order are not, because they average slopes of another
curve. (Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003)
"""

from __future__ import annotations

from math import sqrt
from typing import Literal

from torch import Tensor

ClockName = Literal["sigma", "flow"]
CLOCKS = ("sigma", "flow")


def velocity(x: Tensor, x0: Tensor, sigma: float) -> Tensor:
    """v = ε̂ − x̂₀ at x and `sigma` > 0, with ε̂ = (x − x̂₀)/σ."""
    return (x / sigma).sub_(x0, alpha=(1 + sigma) / sigma)


def along(x: Tensor, slope: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """x moved by `slope`, a velocity, from `sigma` to `sigma_next`."""
    return (x * ((1 + sigma_next) / (1 + sigma))).add_(slope, alpha=(sigma_next - sigma) / (1 + sigma))


def geometric_middle(sigma: float, sigma_next: float) -> float:
    """The level of the time √(t t⁺)."""
    t = sqrt(sigma / (1 + sigma)) * sqrt(sigma_next / (1 + sigma_next))
    return t / (1 - t)
