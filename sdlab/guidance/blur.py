"""Gaussian blur of feature maps and latents."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor


def blurred(x: Tensor, std: float) -> Tensor:
    """Maps (…, H, W) blurred by a Gaussian of standard deviation `std` positions, reflected at their borders."""
    down, across = (gaussian_blur(side, std).to(x) for side in x.shape[-2:])
    return torch.einsum("ih, jw, ...hw -> ...ij", down, across, x)


def gaussian_blur(side: int, std: float) -> Tensor:
    """The matrix (side, side) that blurs a line of values by a Gaussian, in float64. Its rows sum to 1."""
    if std > 3 * side:  # all weights are then equal in float64
        return torch.full((side, side), 1 / side, dtype=torch.float64)
    reach = ceil(8 * std)
    offsets = torch.arange(-reach, reach + 1)
    weights = (-0.5 * (offsets.double() / std).square()).exp() if std > 0 else torch.ones(1, dtype=torch.float64)
    sources = (torch.arange(side)[:, None] + offsets) % (2 * side)
    sources = torch.minimum(sources, 2 * side - 1 - sources)  # the reflected line repeats every 2 · side
    return torch.zeros(side, side, dtype=torch.float64).scatter_add(
        1, sources, (weights / weights.sum()).expand(side, -1)
    )
