"""The U-Net of latent diffusion (Rombach et al. 2022, arXiv:2112.10752; Ronneberger et al. 2015, arXiv:1505.04597).

Residual blocks are conditioned on the timestep (Ho et al. 2020, arXiv:2006.11239, app. B), transformers on the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samplers.checks import look_up
from sdlab.model.attention import SpatialTransformer
from sdlab.model.attention_maps import AttentionMaps
from sdlab.model.blocks import Downsample, ResidualBlock, Upsample
from sdlab.model.config import Size, UnetConfig
from sdlab.model.perturbation import UNPERTURBED, Perturbation, Perturbed
from sdlab.model.zero import zeroed

EPS = 1e-5  # epsilon of the group norms outside the transformers


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Cosines, then sines of t at width/2 frequencies from 1 down to almost 1/10000: (B,) -> (B, width), float32.

    t may be fractional (Vaswani et al. 2017, arXiv:1706.03762, sec. 3.5).
    """
    half = width // 2
    # This order of operations gives angles that are bit-identical to those v1.5 was trained with.
    frequencies = torch.exp(-log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Stage(nn.Module):
    """Any of a residual block, a transformer and a change of resolution, in this order."""

    def __init__(
        self,
        residual: ResidualBlock | None = None,
        transformer: SpatialTransformer | None = None,
        resample: Downsample | Upsample | None = None,
    ) -> None:
        super().__init__()
        self.residual, self.transformer, self.resample = residual, transformer, resample
        self.names: tuple[str, ...] = ()  # of the transformer, as in `UnetConfig.layers`; the first is its own

    def forward(
        self, x: Tensor, time: Tensor, context: Tensor, size: Size | None = None, perturbed: Perturbed = UNPERTURBED
    ) -> Tensor:
        """x (B, C, H, W), time (B, time_width), context (B, L, context_width) -> (B, C_out, H_out, W_out).

        `size` is (H_out, W_out) for an upsampling that does not exactly double the size.
        """
        if self.residual is not None:
            x = self.residual(x, time)
        if self.transformer is not None:
            x = self.transformer(x, context, perturbed.inside(self.names, (x.shape[2], x.shape[3])))
        if self.resample is None:
            return x
        return self.resample(x) if isinstance(self.resample, Downsample) else self.resample(x, size)


class Points(NamedTuple):
    """States at named points of the U-Net."""

    middle: Tensor  # after the middle stages, (B, C, h, w) at the coarsest resolution
    prediction: Tensor  # (B, z, H, W)


class Unet(nn.Module):
    """The denoising network: scaled noisy latents, timestep and context -> its prediction (`parametrisation`)."""

    def __init__(self, config: UnetConfig) -> None:
        super().__init__()
        self.config = config
        widths, last = config.widths, len(config.widths) - 1
        time_width = 4 * config.width

        def residual(width: int, width_out: int) -> ResidualBlock:
            return ResidualBlock(width, width_out, config.groups, EPS, time_width)

        def transformer(width: int) -> SpatialTransformer:
            return SpatialTransformer(width, config.heads, config.context_width, config.groups)

        def attended(level: int) -> SpatialTransformer | None:
            return transformer(widths[level]) if 2**level in config.attention_rates else None

        self.time_embed = nn.Sequential(
            nn.Linear(config.width, time_width), nn.SiLU(), nn.Linear(time_width, time_width)
        )
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, before = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.residual_blocks):
                self.down.append(Stage(residual(before, width), attended(level)))
                skips.append(width)
                before = width
            if level < last:
                self.down.append(Stage(resample=Downsample(width)))
                skips.append(width)
        self.middle = nn.ModuleList(
            [Stage(residual(before, before), transformer(before)), Stage(residual(before, before))]
        )
        for level in reversed(range(len(widths))):
            for block in range(config.residual_blocks + 1):
                up = Upsample(widths[level]) if level > 0 and block == config.residual_blocks else None
                self.up.append(Stage(residual(before + skips.pop(), widths[level]), attended(level), up))
                before = widths[level]
        with_transformers = [stage for stage in self.stages() if stage.transformer is not None]
        for stage, name in zip(with_transformers, config.transformers, strict=True):
            stage.names = tuple(key for key, found in config.layers.items() if name in found)
        self.norm_out = nn.GroupNorm(config.groups, widths[0], eps=EPS)
        self.conv_out = zeroed(nn.Conv2d(widths[0], config.latent_channels, 3, padding=1))

    def stages(self) -> list[Stage]:
        """All stages, in the order of the pass."""
        return [stage for part in (self.down, self.middle, self.up) for stage in part if isinstance(stage, Stage)]

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        perturbation: Sequence[Perturbation | None] = (),
        negative: Tensor | None = None,
        attention: AttentionMaps | None = None,
    ) -> Tensor:
        """x (B, z, H, W), t (B,), possibly fractional, context (B, L, context_width) -> (B, z, H, W).

        H and W are arbitrary. Inputs are cast to the dtype of the weights, and the output has that dtype.

        Args:
            perturbation: of each row, or None; empty if no row is perturbed.
            negative: the contexts that perturbations of cross-attention contrast with, in the shape of `context`.
            attention: where the self-attention of some transformers is recorded.

        Raises:
            ValueError: a perturbation or `attention` names a transformer that this network does not have, or a
                perturbation needs `negative`.
        """
        if not perturbation and attention is None:
            return self.points(x, t, context).prediction
        negative = None if negative is None else negative.to(self._dtype)
        perturbed = Perturbed.of(perturbation, negative, attention, x.device)
        named = (*(one.layers for one, _ in perturbed.rows), () if attention is None else attention.layers)
        for name in chain.from_iterable(named):
            look_up("layer", name, self.config.layers)
        for one, _ in perturbed.rows:
            if one.point == "cross_attention" and negative is None:
                raise ValueError(f"{type(one).__name__} needs negative contexts")
        return self.points(x, t, context, perturbed).prediction

    @property
    def _dtype(self) -> torch.dtype:
        return self.norm_out.weight.dtype

    def points(self, x: Tensor, t: Tensor, context: Tensor, perturbed: Perturbed = UNPERTURBED) -> Points:
        """The same pass, with the states at the named points."""
        dtype = self._dtype
        # Every residual block needs the same SiLU of the timestep, so it is applied once here.
        time = F.silu(perturbed.at("time", self.time_embed(timestep_embedding(t, self.config.width).to(dtype))))
        context = context.to(dtype)
        h = self.conv_in(x.to(dtype, memory_format=torch.channels_last))
        skips = [h]
        for stage in self.down:
            h = stage(h, time, context, perturbed=perturbed)
            skips.append(h)
        for stage in self.middle:
            h = stage(h, time, context, perturbed=perturbed)
        middle = h
        for stage in self.up:
            h = torch.cat([h, skips.pop()], dim=1)
            # Downsampling rounds an odd size up, so upsampling targets the size of the next skip connection.
            size = (skips[-1].shape[2], skips[-1].shape[3]) if skips else None
            h = stage(h, time, context, size, perturbed)
        return Points(middle, self.conv_out(F.silu(self.norm_out(h))))
