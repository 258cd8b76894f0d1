"""Sheets of pictures: samples and reconstructions during training."""

from __future__ import annotations

import torch
from torch import Tensor

from sdlab.picture import to_bytes

_GAP = 2  # pixels


def sheet(pictures: Tensor) -> Tensor:
    """Pictures (rows, columns, 3, H, W) in [−1, 1] on white, a gap apart -> (3, height, width) uint8 on the CPU."""
    rows, columns, channels, height, width = pictures.shape
    size = channels, rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP
    page = torch.full(size, 255, dtype=torch.uint8)
    levels = to_bytes(pictures.detach().float().flatten(0, 1)).permute(0, 3, 1, 2).unflatten(0, (rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, left = i * (height + _GAP), j * (width + _GAP)
            page[:, top : top + height, left : left + width] = levels[i, j]
    return page
