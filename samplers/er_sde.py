"""ER-SDE-Solvers for the extended reverse-time SDE."""

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

# ϕ(σ)/σ for the functions in the paper's appendix A.8.
SCALES: dict[str, Callable[[float], float]] = {
    "ode": lambda sigma: 1.0,
    "sde": lambda sigma: sigma,
    "er_sde_1": lambda sigma: exp(-1 / sigma) + 10,
    "er_sde_2": lambda sigma: sqrt(sigma),
    "er_sde_3": lambda sigma: sigma * sqrt(sigma),
    "er_sde_4": lambda sigma: sigma**-0.1 * log1p(100 * sigma**1.5),  # up to a constant factor, which cancels
    "er_sde_5": lambda sigma: exp(sigma**0.3) + 10,
}
_NODES, _WEIGHTS = (part.tolist() for part in np.polynomial.legendre.leggauss(20))


@dataclass(frozen=True)
class ERSDE(Sampler):
    """ER-SDE-Solver: second order in law with two or three stages, one call per step.

    A noise scale function ϕ, with ϕ(σ)/σ non-decreasing, sets the noise of a step. With r = ϕ(σ⁺)/ϕ(σ), ⁺ for the next
    level, and Dσ, Dσσ the derivatives of x̂₀ along the path in σ (VE form):
        x⁺ = r x + (1 − r) D + A Dσ + B Dσσ + √(σ⁺² − r² σ²) z
        A  = ∫_{σ⁺}^σ (ϕ(σ⁺)/ϕ(s) − 1) ds
        B  = ∫_{σ⁺}^σ (s − σ)(ϕ(σ⁺)/ϕ(s) − 1) ds

    With Δ for the divided differences of the last predictions:
        stages 1    Dσ = Dσσ = 0
        stages 2    Dσ = Δ[σ, σ₁],                           Dσσ = 0
        stages 3    Dσ = Δ[σ, σ₁] + (σ − σ₁) Δ[σ, σ₁, σ₂],   Dσσ = 2 Δ[σ, σ₁, σ₂]

    `stages` is the number of predictions a step uses. `scale` names ϕ: "ode" is σ, the probability flow; "sde" is σ²,
    the reverse SDE; "er_sde_1" to "er_sde_5" are the paper's, which recommends the last, σ (e^{σ^0.3} + 10). `variant`
    "published" keeps Dσ = Δ[σ, σ₁] in the third stage as the authors do, which leaves a first-order error in Dσ and a
    sampler of order 2.

    The coefficients are arranged to avoid cancellation in short steps and integrated by Gauss quadrature in log s. The
    paper's code uses Riemann sums of 100 or 200 terms. The first steps use as many predictions as there are. The step
    to σ⁺ = 0 uses D alone. (Cui et al. 2023, arXiv:2309.06169)

    Raises:
        ValueError: stages is not 1, 2 or 3, or scale or variant is unknown.
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
        """x at `sigma` -> x at `sigma_next`. Memory: the last predictions."""
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
