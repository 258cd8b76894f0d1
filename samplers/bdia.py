"""BDIA, bidirectional integration approximation."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot

from samplers.bidirectional import Bidirectional
from samplers.checks import within


@dataclass(frozen=True)
class BDIA(Bidirectional):
    """BDIA, DDIM that makes up for the error of its last step: one call per step, with an exact inverse.

    With e(s) = x + (s − σ) ε the DDIM step from x at σ to level s, ⁺ for the next level and ′ for the previous one:
        x⁺ = e(σ⁺) + w (x′ − e(σ′)),   w = γ √((1 + σ⁺²)/(1 + σ′²))

    x′ − e(σ′) is what DDIM from x back to the previous level misses of the state there. The paper adds it with weight γ
    to variance-preserving states x/√(1 + σ²), hence the root. `gamma` in (0, 1] is γ. With 1 the order is 2 where
    neighbouring steps have nearly equal lengths, since w tends to 1 there; otherwise it is 1. Towards 0 it is DDIM.
    Each step up divides by γ, so below 1 the inverse grows by 1/γ a step, 10⁹-fold in 30 steps at 0.5. `belm` is the
    same rule with w = (σ⁺ − σ)²/(σ − σ′)². The first step is a DDIM step. σ⁺ = 0 needs no special case. (Zhang, Lewis,
    Kleijn 2023, arXiv:2307.10829)

    Raises:
        ValueError: gamma is not in [0.01, 1].
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        within("BDIA.gamma", self.gamma, 0.01, 1)

    @property
    def order(self) -> int:
        """2 for gamma 1 (on a grid whose neighbouring steps have nearly equal lengths), else 1."""
        return 2 if self.gamma == 1 else 1

    def weight(self, before: float, sigma: float, after: float) -> float:
        """γ √((1 + σ⁺²)/(1 + σ′²)) downwards, and its inverse upwards."""
        return (self.gamma if after < sigma else 1 / self.gamma) * hypot(1, after) / hypot(1, before)
