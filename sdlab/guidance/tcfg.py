"""Tangential damping classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdlab.guidance.base import Level
from sdlab.guidance.blend import Blend
from sdlab.guidance.space import Space
from sdlab.guidance.vectors import dot


@dataclass(frozen=True)
class TangentialDamping(Blend):
    """Tangential damping: the unconditional score is projected on the direction that both scores share.

    With v the first right singular vector of the matrix with the rows c and u, per image:
        u₁ = ⟨u, v⟩ v
        u₁ + scale (c − u₁)

    v = a c + b u, where (a, b) is an eigenvector of the 2 × 2 matrix of inner products, so no decomposition of long
    vectors is needed. (Kwon et al. 2025, arXiv:2503.18137)

    Raises:
        ValueError: `scale` is below 0 or above 1000, or `space` is unknown.
    """

    scale: float = 7.5
    space: Space = "eps"

    def blend(self, cond: Tensor, uncond: Tensor, sigma: Level) -> Tensor:
        """The guided score."""
        if uncond is cond:
            return cond
        angle = torch.atan2(2 * dot(cond, uncond), dot(cond, cond) - dot(uncond, uncond)) / 2
        a, b = angle.cos(), angle.sin()  # the eigenvector of the larger eigenvalue
        damped = b * (a * cond + b * uncond)
        return torch.lerp(damped, cond, self.scale)
