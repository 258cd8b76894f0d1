"""Power-function averages of weights, and averages of any length from stored ones.

The equations are those of (Karras et al. 2024, arXiv:2312.02696, section 3).
The average at step t weighs the weights of step τ by p(τ) = (γ + 1) τ^γ / t^(γ + 1). Its length is the standard
deviation of p as a share of t (σ_rel in the paper). An average of another length is found after training: it is the
linear combination of stored averages whose weights p are closest to the wanted ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

LENGTHS = (0.05, 0.10)  # of the averages that are stored (section 3.2)


@dataclass(frozen=True)
class PowerAverage:
    """The decay of a power-function average by step. `length` is σ_rel in (0, 0.288)."""

    length: float

    @cached_property
    def exponent(self) -> float:
        """γ, the real root of σ_rel² = (γ + 1) / ((γ + 2)² (γ + 3)) (section 3.1)."""
        inverse = self.length**-2
        return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())

    def __call__(self, step: int) -> float:
        """The factor that keeps the weights of the average those of p: (1 − 1/t)^(γ + 1) at t = `step` + 1."""
        return (1 - 1 / (step + 1)) ** (self.exponent + 1)


def combination(stored: Sequence[tuple[int, float]], wanted: tuple[int, float]) -> tuple[list[float], float]:
    """The factors of stored averages whose sum is closest to a wanted average, in the L² norm of p.

    An average is given by the number of steps it covers and its length (section 3.2). Also returns the distance of the
    sum from the wanted p, as a share of the norm of p.
    """
    t = np.array([step for step, _ in (*stored, wanted)], dtype=float)
    gamma = np.array([PowerAverage(length).exponent for _, length in (*stored, wanted)])
    # ∫ pᵢ pⱼ over τ, with the steps as shares of the wanted one.
    t /= t[-1]
    scale = (gamma + 1) / t ** (gamma + 1)
    total = gamma[:, None] + gamma[None, :] + 1
    products = scale[:, None] * scale[None, :] * np.minimum(t[:, None], t[None, :]) ** total / total
    factors, *_ = np.linalg.lstsq(products[:-1, :-1], products[:-1, -1], rcond=None)
    off = np.append(factors, -1.0)
    return [float(factor) for factor in factors], float(max(off @ products @ off, 0) / products[-1, -1]) ** 0.5
