"""The VAE decoder, from latents to pictures (Rombach et al. 2022, arXiv:2112.10752)."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from sdlab.model.blocks import ResidualBlock, Upsample
from sdlab.model.config import VaeConfig
from sdlab.model.encoder import EPS, middle


class Decoder(nn.Module):
    """Latents (B, z, H/f, W/f), after `post_quant_conv` -> (B, 3, H, W).

    `up[0]` is the finest level, like `down[0]` in the encoder, so levels are applied in reverse.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths, groups = config.widths, config.groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid = middle(widths[-1], groups)
        self.up = nn.ModuleList()
        for level, (width, before) in enumerate(pairwise((*widths, widths[-1]))):
            blocks = [ResidualBlock(before, width, groups, EPS)]
            blocks += [ResidualBlock(width, width, groups, EPS) for _ in range(config.residual_blocks)]
            stage = nn.Sequential(*blocks)
            if level > 0:
                stage.add_module("upsample", Upsample(width))
            self.up.append(stage)
        self.norm_out = nn.GroupNorm(groups, widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(widths[0], config.image_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, z, H/f, W/f) -> (B, 3, H, W)."""
        h = self.mid(self.conv_in(z))
        for stage in reversed(self.up):
            h = stage(h)
        return self.conv_out(F.silu(self.norm_out(h)))
