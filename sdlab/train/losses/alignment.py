"""Representation alignment: the U-Net's middle features are drawn towards frozen features of the clean picture.

A denoising network learns such features slowly by itself. Large transformers that are aligned reach the same quality in
many times fewer steps (Yu et al. 2024, arXiv:2410.06940).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from sdlab.model.clip import Clip
from sdlab.model.diffusion import Unet
from sdlab.model.vae import Vae
from sdlab.train.losses.clip_size import at_size_of


class Aligned(nn.Module):
    """A U-Net with a projector from its middle features to other features. The projector is not part of the model."""

    def __init__(self, unet: Unet, width: int, hidden: int) -> None:
        super().__init__()
        self.unet = unet
        self.projector = nn.Sequential(
            nn.Linear(unet.config.widths[-1], hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, width),
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """The projected middle features, (B, C, h, w), and the U-Net's prediction, (B, z, H, W)."""
        middle, prediction = self.unet.points(x, t, context)
        return self.projector(middle.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), prediction


def alignment_loss(projected: Tensor, features: Tensor) -> Tensor:
    """1 − cosine of the projected features (B, C, h, w) and the frozen ones (B, C, H, W), averaged over positions.

    The frozen features are averaged to the resolution of the others. (Yu et al. 2024, arXiv:2410.06940, section 3)
    """
    wanted = F.adaptive_avg_pool2d(features.float(), (projected.shape[2], projected.shape[3]))
    return 1 - F.cosine_similarity(projected.float(), wanted, dim=1).mean()


@dataclass(frozen=True)
class Frozen:
    """Features of clean pictures."""

    width: int
    of: Callable[[Tensor, Tensor], Tensor]  # pictures (B, 3, S, S) in [−1, 1], latents (B, z, h, w) -> (B, width, H, W)


def clip_patches(clip: Callable[[], Clip], vae: Vae) -> Frozen:
    """The patch states of CLIP's vision encoder before its last layer, after which only the class token is trained."""
    vision = clip().vision

    def of(images: Tensor, latents: Tensor) -> Tensor:
        states = vision.states(at_size_of(vision, images))[-2:][0][:, 1:].transpose(1, 2)  # (B, width, T)
        side = vision.config.image_size // vision.config.patch
        return states.unflatten(2, (side, side))

    return Frozen(vision.config.width, of)


def vae_middle(clip: Callable[[], Clip], vae: Vae) -> Frozen:
    """The middle features of the VAE's encoder."""
    return Frozen(vae.config.widths[-1], lambda images, latents: vae.features(images))


def clean_latents(clip: Callable[[], Clip], vae: Vae) -> Frozen:
    """The clean latents themselves."""
    return Frozen(vae.config.latent_channels, lambda images, latents: latents)


# `clip` returns the model's CLIP, or raises an error if it has no trained vision encoder.
FEATURES: Mapping[str, Callable[[Callable[[], Clip], Vae], Frozen]] = {
    "clip": clip_patches,
    "latents": clean_latents,
    "vae": vae_middle,
}
