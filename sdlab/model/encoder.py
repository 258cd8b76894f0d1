"""The VAE encoder, from pictures to the moments of their latents (Rombach et al. 2022, arXiv:2112.10752)."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from sdlab.model.attention import SpatialAttention
from sdlab.model.blocks import Downsample, ResidualBlock
from sdlab.model.config import VaeConfig

EPS = 1e-6  # epsilon of the VAE's group norms


def middle(width: int, groups: int) -> nn.Sequential:
    """The coarsest level of encoder and decoder: residual block, self-attention, residual block."""
    return nn.Sequential(
        ResidualBlock(width, width, groups, EPS),
        SpatialAttention(width, groups),
        ResidualBlock(width, width, groups, EPS),
    )


class Encoder(nn.Module):
    """(B, 3, H, W) in [−1, 1] -> moments (B, 2 z, H/f, W/f), before `quant_conv`. `down[0]` is the finest level."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths, groups = config.widths, config.groups
        self.conv_in = nn.Conv2d(config.image_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for level, (before, width) in enumerate(pairwise((widths[0], *widths))):
            blocks = [ResidualBlock(before, width, groups, EPS)]
            blocks += [ResidualBlock(width, width, groups, EPS) for _ in range(config.residual_blocks - 1)]
            stage = nn.Sequential(*blocks)
            if level < len(widths) - 1:
                stage.add_module("downsample", Downsample(width, asymmetric=True))
            self.down.append(stage)
        self.mid = middle(widths[-1], groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 2 z, H/f, W/f)."""
        return self.conv_out(F.silu(self.norm_out(self.features(x))))

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> the states after the middle, (B, C, H/f, W/f)."""
        h = self.conv_in(x)
        for stage in self.down:
            h = stage(h)
        return self.mid(h)
