"""The second lab evaluator: a reader of another architecture, whose disagreement with the first is the judge's error.

It is one stage of a ConvNeXt (Liu et al. 2022, arXiv:2201.03545, section 2) on patches of 4 × 4 pixels. The first
evaluator is a residual network with group norms and strided convolutions.
"""

from __future__ import annotations

from torch import Tensor, nn

from sdlab.worlds.base import Heads
from sdlab.worlds.evaluator import STRIDE, split

_WIDTH, _BLOCKS = 96, 6


class _Block(nn.Module):
    """A depthwise convolution over 7 × 7 patches, then a layer norm and an MLP at every patch, with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class SecondEvaluator(nn.Module):
    """Pictures (B, 3, H, W) in [−1, 1] -> predictions for the whole picture, and per cell if the world has such heads.

    H and W are multiples of 4.
    """

    def __init__(self, heads: Heads) -> None:
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(3, _WIDTH, STRIDE, stride=STRIDE)
        self.blocks = nn.Sequential(*(_Block(_WIDTH) for _ in range(_BLOCKS)))
        self.norm = nn.LayerNorm(_WIDTH)
        self.attention = nn.Linear(_WIDTH, sum(heads.picture.values()))
        self.picture = nn.Linear(_WIDTH, sum(heads.picture.values()))
        if heads.cells:
            self.cells = nn.Linear(_WIDTH, sum(heads.cells.values()))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The picture heads (B, k) and the cell heads (B, k, H/4, W/4)."""
        x = self.norm(self.blocks(self.patches(images)).permute(0, 2, 3, 1))  # (B, H/4, W/4, C)
        outputs: dict[str, Tensor] = {}
        if self.heads.cells:
            outputs |= split(self.cells(x).permute(0, 3, 1, 2), self.heads.cells)
        # Each output looks at the patches that matter to it: a weighted mean with its own weights.
        tokens = x.flatten(1, 2)
        picture = (self.attention(tokens).softmax(1) * self.picture(tokens)).sum(1)
        return {**outputs, **split(picture, self.heads.picture)}
