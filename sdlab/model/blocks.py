"""Convolutional blocks of the VAE and the U-Net: residual block, downsampling, upsampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlab.model.config import Size
from sdlab.model.zero import zeroed


class ResidualBlock(nn.Module):
    """Group norm, SiLU and convolution, twice, with a residual. `time_width` adds a timestep embedding in between.

    The last convolution is initialised to zero. Each block therefore starts as the identity or, if the width changes,
    as its 1 × 1 skip convolution (Ho et al. 2020, arXiv:2006.11239, app. B; Goyal et al. 2017, arXiv:1706.02677).
    """

    def __init__(self, width: int, width_out: int, groups: int, eps: float, time_width: int | None = None) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width, eps=eps)
        self.conv1 = nn.Conv2d(width, width_out, 3, padding=1)
        self.time = nn.Linear(time_width, width_out) if time_width else None
        self.norm2 = nn.GroupNorm(groups, width_out, eps=eps)
        self.conv2 = zeroed(nn.Conv2d(width_out, width_out, 3, padding=1))
        self.skip = nn.Conv2d(width, width_out, 1) if width != width_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), time (B, time_width) after its SiLU -> (B, C_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time is not None:
            h = h + self.time(time)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.skip(x) + h


class Downsample(nn.Module):
    """Downsampling to half the height and width by a 3 × 3 convolution of stride 2.

    The U-Net pads one pixel on each side. The VAE was trained with padding on the right and bottom only (`asymmetric`).
    """

    def __init__(self, width: int, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2), rounded up, or down if asymmetric."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling, by default to twice the height and width, then a 3 × 3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, size: Size | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W), or `size` instead of (2H, 2W)."""
        height, width = size or (2 * x.shape[2], 2 * x.shape[3])
        if torch.compiler.is_compiling() and x.device.type == "cpu":
            # With F.interpolate, Inductor of PyTorch 2.13 computes gradients of 0 for everything before it: seen on a
            # CPU in channels-last layout under autocast to bfloat16, also without sdlab (docs/training.md).
            x = x.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., :height, :width]
        else:
            x = F.interpolate(x, size=(height, width), mode="nearest")
        return self.conv(x)
