"""Tiled inference: a network applied to a large picture in overlapping tiles, using the memory of one tile.

Tiles are computed independently. If the receptive field of the network exceeds the overlap, as with the attention and
the group norms of the VAE, neighbouring tiles differ slightly. Blending hides the seams between them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def tiled(network: Callable[[Tensor], Tensor], x: Tensor, side: int, overlap: int, inner: int, outer: int) -> Tensor:
    """`network` on tiles of x (B, C, H, W), blended in float32 where they overlap: (B, C', H/inner·outer, …).

    The network maps `inner` pixels to `outer`, for instance 8 to 1. A tile has side · inner pixels at the input and
    side · outer at the output. All tiles have the same size and overlap by at least `overlap`, in units of `side`.
    """
    height, width = (n // inner for n in x.shape[-2:])
    rows, columns = min(side, height), min(side, width)
    weight = torch.outer(_ramp(rows * outer, overlap * outer), _ramp(columns * outer, overlap * outer)).to(x.device)
    total = torch.zeros(height * outer, width * outer, device=x.device)
    blended: Tensor | None = None
    for top in _starts(height, side, overlap):
        for left in _starts(width, side, overlap):
            tile = x[..., top * inner : (top + rows) * inner, left * inner : (left + columns) * inner]
            part = network(tile).float()
            if blended is None:
                blended = part.new_zeros(*part.shape[:-2], *total.shape)
            place = (
                slice(top * outer, (top + rows) * outer),
                slice(left * outer, (left + columns) * outer),
            )
            blended[(..., *place)] += weight * part
            total[place] += weight
    assert blended is not None
    return blended / total


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """Evenly spaced start positions of tiles that cover `length`."""
    if length <= side:
        return [0]
    count = 1 + -(-(length - side) // (side - overlap))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def _ramp(length: int, overlap: int) -> Tensor:
    """Weights that rise over `overlap` pixels from both ends and are never 0, (length,)."""
    i = torch.arange(length) + 0.5
    return torch.minimum(i, length - i).clamp(max=max(overlap, 0.5))
