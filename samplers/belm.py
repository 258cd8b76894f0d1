"""O-BELM, the optimal bidirectional explicit linear multistep method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from samplers.bidirectional import Bidirectional


@dataclass(frozen=True)
class BELM(Bidirectional):
    """O-BELM, the leapfrog method on any grid: second order, one call per step, with an exact inverse.

    With ε = (x − x̂₀)/σ, ⁺ for the next level, ′ for the previous one and r = (σ⁺ − σ)/(σ − σ′):
        x⁺ = r² x′ + (1 − r²) x + (1 + r)(σ⁺ − σ) ε

    On a grid of even steps h this is the leapfrog x⁺ = x′ + 2 h ε. Its own inverse is the same rule upwards
    (`samplers.invert`). The first step is an Euler step. σ⁺ = 0 needs no special case.

    It is only marginally stable. Beside the flow it has a solution that changes its sign at every step. A step
    multiplies it by r², and the whole run by as much as the flow contracts. Steps that become shorter, as in most
    grids, damp it on the way down and let it grow on the way up. Steps that become longer enlarge even rounding. (Wang
    et al. 2024, arXiv:2410.07273)
    """

    order: ClassVar[int] = 2

    def weight(self, before: float, sigma: float, after: float) -> float:
        """r²."""
        return float(((after - sigma) / (sigma - before)) ** 2)
