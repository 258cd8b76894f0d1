"""Adams methods, plain and exponential: a polynomial through the previous predictions, integrated exactly.

With θ = 0 at the start of the step and θ = 1 at its end, the polynomial that takes the values f_j at the nodes θ_j is
Σ_j ℓ_j(θ) f_j. Every multistep sampler here is a sum of the f_j with the weights

    w_j = ∫₀¹ e^{(1−θ)z} ℓ_j(θ) dθ,   where   ∫₀¹ e^{(1−θ)z} θ^k dθ = k! φ_{k+1}(z)

    ε in σ:  x⁺ = x + (σ⁺−σ) Σ w_j ε_j             z = 0     θ = (σ_j − σ)/(σ⁺ − σ)     LMS
    ε in λ:  x⁺ = x − σ⁺ h Σ w_j ε_j               z = h     θ = (λ_j − λ)/h            DPM-Solver
    x̂₀ in λ: x⁺ = (σ⁺/σ) x + h Σ w_j x̂₀_j          z = −h    θ = (λ_j − λ)/h            DPM-Solver++, UniPC, RES

λ = −log σ, h = λ⁺ − λ.  (Hochbruck and Ostermann 2010, doi:10.1017/S0962492910000048, for the φ functions)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import expm1, factorial, log, log1p
from typing import NamedTuple

import torch
from torch import Tensor


class Node(NamedTuple):
    """One noise level in the memory of a sampler: x, x̂₀, ε, or the noise σ ε = x − x̂₀."""

    sigma: float
    value: Tensor


def phi(count: int, z: float) -> list[float]:
    """φ_1(z) … φ_count(z): φ_0 = e^z, φ_{k+1} = (φ_k − 1/k!)/z, φ_k = Σ_n z^n/(n+k)!, without loss of digits near 0."""
    if abs(z) > 1:
        values = [expm1(z) / z]
        for k in range(1, count):
            values.append((values[-1] - 1 / factorial(k)) / z)
        return values
    term = value = 1 / factorial(count)
    for n in range(1, 20):
        term *= z / (n + count)
        value += term
    values = [value]
    for k in range(count - 1, 0, -1):
        values.append(z * values[-1] + 1 / factorial(k))
    return values[::-1]


@lru_cache(maxsize=4096)  # every batch of a sweep takes the same steps
def adams_weights(nodes: tuple[float, ...], z: float = 0.0) -> tuple[float, ...]:
    """w_j = ∫₀¹ e^{(1−θ)z} ℓ_j(θ) dθ for the nodes θ_j, which must differ."""
    moments = [factorial(k) * value for k, value in enumerate(phi(len(nodes), z))]
    basis = (lagrange(nodes, j) for j in range(len(nodes)))
    return tuple(sum(c * moment for c, moment in zip(row, moments, strict=True)) for row in basis)


def difference_weights(nodes: tuple[float, ...]) -> tuple[float, ...]:
    """c_j of the divided difference f[θ_0, θ_1, …] = Σ c_j f_j, the leading coefficient of the polynomial."""
    return tuple(lagrange(nodes, j)[-1] for j in range(len(nodes)))


def log_ratio(high: float, low: float) -> float:
    """log(high/low) > 0 for high > low > 0, accurate for any ratio."""
    return log1p((high - low) / low) if high < 2 * low else log(high) - log(low)


def sigma_weights(history: Sequence[Node], sigma_next: float) -> list[float]:
    """∫ ℓ_j(s) ds from the newest level to `sigma_next`, with polynomials in σ."""
    sigma = history[0].sigma
    step = sigma_next - sigma
    return [step * weight for weight in adams_weights(tuple((node.sigma - sigma) / step for node in history))]


def log_nodes(history: Sequence[Node], h: float) -> tuple[float, ...]:
    """θ = (λ_j − λ)/h of the levels in memory. The step begins at the newest."""
    here = history[0].sigma
    return (0.0, *(-log_ratio(node.sigma, here) / h for node in history[1:]))


def along_noise(x: Tensor, x0: Tensor, history: Sequence[Node], weights: Sequence[float]) -> Tensor:
    """x + Σ w_j ε_j, newest first, for nodes that hold σ ε. Exactly x̂₀ for an Euler step to σ = 0."""
    out = torch.lerp(x0, x, 1 + weights[0] / history[0].sigma)
    for node, weight in zip(history[1:], weights[1:], strict=True):
        out.add_(node.value, alpha=weight / node.sigma)
    return out


def along_predictions(x: Tensor, ratio: float, history: Sequence[Node], weights: Sequence[float]) -> Tensor:
    """ratio x + Σ w_j f_j, for nodes that hold f = x̂₀, where the weights and the ratio sum to 1, or f = ε."""
    out = x * ratio
    for node, weight in zip(history, weights, strict=True):
        out.add_(node.value, alpha=weight)
    return out


def lagrange(nodes: tuple[float, ...], j: int) -> list[float]:
    """The coefficients of ℓ_j, constant first."""
    coefficients = [1.0]
    for i, node in enumerate(nodes):
        if i != j:
            scale = 1 / (nodes[j] - node)
            shifted = [0.0, *coefficients]
            coefficients = [scale * (up - node * c) for up, c in zip(shifted, [*coefficients, 0.0], strict=True)]
    return coefficients
