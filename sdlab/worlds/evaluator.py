"""The lab evaluator: a small convolutional network that reads pictures.

Its only input is the picture, never the caption, and it is trained separately from the generator and its text encoder.
The world says what it predicts. FID and KID use its pooled features.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from sdlab.worlds.base import Heads

STRIDE = 4  # pixels per cell
FEATURES = 64


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Evaluator(nn.Module):
    """Pictures (B, 3, H, W) in [−1, 1] -> predictions for the whole picture, and per cell if the world has such heads.

    H and W are multiples of 8.
    """

    def __init__(self, heads: Heads) -> None:
        super().__init__()
        self.heads = heads
        self.fine = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1), _Residual(32),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), _Residual(64), _Residual(64),
        )  # fmt: skip
        self.coarse = nn.Sequential(nn.Conv2d(64, 128, 3, stride=2, padding=1), _Residual(128), _Residual(128))
        if heads.cells:
            self.back = nn.Conv2d(128, 64, 1)
            self.joint = nn.Sequential(_Residual(64), nn.GroupNorm(8, 64), nn.SiLU())
            self.cells = nn.Conv2d(64, sum(heads.cells.values()), 1)
        self.pooled = nn.Linear(128 * 4, FEATURES)
        self.picture = nn.Sequential(nn.SiLU(), nn.Linear(FEATURES, sum(heads.picture.values())))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The picture heads (B, k), the cell heads (B, k, H/4, W/4), and "features" (B, 64)."""
        fine = self.fine(images)
        coarse = self.coarse(fine)
        outputs: dict[str, Tensor] = {}
        if self.heads.cells:
            cells = self.cells(self.joint(fine + F.interpolate(self.back(coarse), scale_factor=2.0)))
            outputs |= split(cells, self.heads.cells)
        # Four quadrants rather than one mean, so that the features depend on positions.
        features = self.pooled(F.adaptive_avg_pool2d(F.silu(coarse), 2).flatten(1))
        return {**outputs, **split(self.picture(features), self.heads.picture), "features": features}


def split(outputs: Tensor, heads: Mapping[str, int]) -> dict[str, Tensor]:
    """The outputs of each head, from all outputs along dimension 1."""
    return dict(zip(heads, outputs.split(list(heads.values()), 1), strict=True))
