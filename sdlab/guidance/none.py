"""No guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sdlab.guidance.affine import Affine


@dataclass(frozen=True)
class Unguided(Affine):
    """The plain conditional model, D(x; σ, c)."""

    neutral: ClassVar[Mapping[str, Any]] = {}

    def weight(self, sigma: float) -> float:
        """1 at every level."""
        return 1.0
