"""ER-SDE-Solvers for the extended reverse-time SDE (Cui et al. 2023, arXiv:2309.06169, in VE form).

A noise scale function ϕ with ϕ(σ)/σ not falling says how much noise a step takes. With r = ϕ(σ⁺)/ϕ(σ), ⁺ for the next
level, and the derivatives D′, D″ of x̂₀ along the path in σ:
    x⁺ = r x + (1 − r) D + A D′ + B D″ + √(σ⁺² − r² σ²) z
    A  = ∫_{σ⁺}^σ (ϕ(σ⁺)/ϕ(s) − 1) ds,    B = ∫_{σ⁺}^σ (s − σ)(ϕ(σ⁺)/ϕ(s) − 1) ds

which are the paper's coefficients, collected so that they lose no digits in short steps (the paper's code takes them
from a Riemann sum of 100 or 200 terms, here they are Gauss–Legendre in log s). ϕ(σ) = σ is the probability flow, σ² the
reverse SDE, ϕ = σ (e^{σ^0.3} + 10) the paper's choice. With Δ for the divided differences of the last predictions:
    stages 1    D′ = D″ = 0
    stages 2    D′ = Δ[σ, σ₁],                           D″ = 0
    stages 3    D′ = Δ[σ, σ₁] + (σ − σ₁) Δ[σ, σ₁, σ₂],   D″ = 2 Δ[σ, σ₁, σ₂]

The authors' third stage keeps D′ = Δ[σ, σ₁] beside D″; the error of D′, of first order, leaves it a solver of order 2:
variant "published". The first steps look back as far as there is something to see; the one to σ⁺ = 0 takes D alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log1p, sqrt
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from samplers.adams import Node, log_ratio
from samplers.base import Denoiser, Noise, Sampler, between
from samplers.checks import look_up, one_of

# ϕ(σ)/σ of the functions in the paper's appendix A.8.
SCALES: dict[str, Callable[[float], float]] = {
    "ode": lambda sigma: 1.0,
    "sde": lambda sigma: sigma,
    "er_sde_1": lambda sigma: exp(-1 / sigma) + 10,
    "er_sde_2": lambda sigma: sqrt(sigma),
    "er_sde_3": lambda sigma: sigma * sqrt(sigma),
    "er_sde_4": lambda sigma: sigma**-0.1 * log1p(100 * sigma**1.5),  # but for a factor, which is free
    "er_sde_5": lambda sigma: exp(sigma**0.3) + 10,
}
_NODES, _WEIGHTS = (part.tolist() for part in np.polynomial.legendre.leggauss(20))


@dataclass(frozen=True)
class ERSDE(Sampler):
    """ER-SDE-Solver: second order in law with two or three stages, one call a step.

    `stages` is how many predictions a step uses, 1 to 3; `scale` names the noise scale function: "ode" and "sde" are
    the probability flow and the reverse SDE, "er_sde_1" to "er_sde_5" the paper's own. For `variant` see above.
    ValueError for other values.
    """

    stages: int = 3
    scale: str = "er_sde_5"
    variant: Literal["corrected", "published"] = "corrected"

    def __post_init__(self) -> None:
        one_of("ERSDE.stages", self.stages, (1, 2, 3))
        look_up("ERSDE.scale", self.scale, SCALES)
        one_of("ERSDE.variant", self.variant, ("corrected", "published"))

    @property
    def order(self) -> int:
        """`stages`, but at most 2 with noise or for the published variant."""
        return min(self.stages, 2) if self.stochastic or self.variant == "published" else self.stages

    @property
    def stochastic(self) -> bool:
        """True unless scale is "ode"."""
        return self.scale != "ode"

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        memory: tuple[Node, ...] | None,
        noise: Noise,
    ) -> tuple[Tensor, tuple[Node, ...]]:
        """x at `sigma` -> x at `sigma_next`; remembers the last predictions."""
        x0 = denoise(x, sigma)
        history = (Node(sigma, x0), *(memory or ()))[: self.stages]
        if sigma_next == 0:
            return torch.lerp(x0, x, 0.0), history
        share, first, second = _coefficients(self.scale, sigma, sigma_next)
        x = torch.lerp(x0, x, sigma_next / sigma * share)
        if len(history) > 1:
            d = _difference(history[0], history[1])
            if len(history) > 2:
                older = _difference(history[1], history[2])
                bend = torch.sub(d, older).div_(sigma - history[2].sigma)
                if self.variant == "corrected":
                    second += first * (sigma - history[1].sigma) / 2
                x.add_(bend, alpha=2 * second)
            x.add_(d, alpha=first)
        fresh = (1 - share) * (1 + share)
        if fresh > 0:
            x.add_(between(noise, sigma, sigma_next, x), alpha=sigma_next * sqrt(fresh))
        return x, history


def _difference(newer: Node, older: Node) -> Tensor:
    return torch.sub(newer.value, older.value).div_(newer.sigma - older.sigma)


@lru_cache(maxsize=4096)  # every batch of a sweep takes the same steps
def _coefficients(scale: str, sigma: float, sigma_next: float) -> tuple[float, float, float]:
    """r σ/σ⁺, A and B."""
    shape = SCALES[scale]
    low, half = shape(sigma_next), log_ratio(sigma, sigma_next) / 2
    first = second = 0.0
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        s = sigma * exp(half * (node - 1))
        gap = weight * half * (sigma_next * low / shape(s) - s)  # (ϕ⁺/ϕ(s) − 1) ds, with ds = s dlog s
        first += gap
        second += gap * (s - sigma)
    return min(1.0, low / shape(sigma)), first, second
