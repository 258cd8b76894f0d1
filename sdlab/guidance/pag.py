"""Perturbed-attention guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sdlab.guidance.base import Query
from sdlab.guidance.contrast import Contrast
from sdlab.model.perturbation import Perturbation, Point
from sdlab.model.place import Place


@dataclass(frozen=True)
class IdentityAttention(Perturbation):
    """Self-attention whose attention map is the identity. Each token receives its own value."""

    point: ClassVar[Point] = "self_attention"

    def change(self, state: Tensor, other: Tensor, place: Place) -> Tensor:
        """The values."""
        return other


@dataclass(frozen=True)
class PerturbedAttention(Contrast):
    """Perturbed-attention guidance: away from the prediction with identity self-attention, D(c) + scale (D(c) − D′(c)).

    The self-attention of the transformers `layers` is replaced by its values. `cfg` adds classifier-free guidance,
    and 1 is without. Scale 0 has no effect (Ahn et al. 2024, arXiv:2403.17377, sec. 4).

    Raises:
        ValueError: `scale` or `cfg` is below 0, or `layers` is empty.
    """

    layers: tuple[str, ...] = ("auto",)

    def worse(self, sigma: float) -> Query:
        """The conditional prediction with identity self-attention."""
        return Query("cond", IdentityAttention(self.layers))
