"""The renderer of portraits: parts painted over each other on a 16 × 16 grid, then enlarged four times."""

from __future__ import annotations

import torch
from torch import Tensor

from sdlab.worlds.portraits.palette import ROLES
from sdlab.worlds.portraits.parts import CELLS, GRID, PARTS
from sdlab.worlds.portraits.world import SIZE, Portraits

_FROM_TOP = tuple(PARTS.values())[::-1]
_PAINTED = [ROLES.index(role) for role in (*(part.role for part in _FROM_TOP), "background")]


def render(portraits: Portraits) -> Tensor:
    """Pictures of the portraits, (B, 3, 64, 64) float32 in [−1, 1]. Each cell of the grid is 4 × 4 pixels."""
    n, enlarge = len(portraits), SIZE[0] // GRID
    # The share of every colour in each cell, from the top part down: less work than painting three channels.
    shares = torch.empty(n, len(PARTS) + 2, CELLS)
    through = torch.ones(n, CELLS)
    white = torch.zeros(n, CELLS)
    for k, (part, variant) in enumerate(zip(_FROM_TOP, portraits.variants.flip(1).unbind(1), strict=True)):
        torch.mul(through, part.own[variant], out=shares[:, k])
        white.addcmul_(through, part.white[variant])
        through.mul_(part.through[variant])
    shares[:, -2], shares[:, -1] = through, white
    colours = torch.cat([portraits.rgb[:, _PAINTED], torch.ones(n, 1, 3)], 1)  # (B, shares, 3)
    canvas = (colours.transpose(1, 2) @ shares).mul_(2).sub_(1).clamp_(-1, 1).view(n, 3, GRID, GRID)
    canvas = canvas.where(~portraits.mirrored.view(-1, 1, 1, 1), canvas.flip(-1))
    return canvas.repeat_interleave(enlarge, -1).repeat_interleave(enlarge, -2)
