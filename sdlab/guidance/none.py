"""No guidance."""

from __future__ import annotations

from dataclasses import dataclass

from sdlab.guidance.affine import Affine


@dataclass(frozen=True)
class Unguided(Affine):
    """The plain conditional model, D(x; σ, c)."""

    def weight(self, sigma: float) -> float:
        """1 at every level."""
        return 1.0
