"""The variational autoencoder between pictures and latents (Kingma & Welling 2013, arXiv:1312.6114)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sdlab.model.config import VaeConfig
from sdlab.model.decoder import Decoder
from sdlab.model.encoder import Encoder


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(mean, exp(logvar)) per element, in float32 or float64 whatever the dtype of the network."""

    mean: Tensor  # (B, z, h, w)
    logvar: Tensor  # (B, z, h, w)

    @classmethod
    def from_moments(cls, moments: Tensor) -> DiagonalGaussian:
        """From (B, 2 z, h, w): the mean, then the log-variance, clamped to [−30, 20]."""
        mean, logvar = moments.to(torch.promote_types(moments.dtype, torch.float32)).chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std · noise, for standard normal `noise` of the mean's shape."""
        return self.mean + (0.5 * self.logvar).exp() * noise

    def kl(self) -> Tensor:
        """KL divergence to the standard normal in nats, (B,) (Kingma & Welling 2013, arXiv:1312.6114, app. B)."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar).flatten(1).sum(1)


class Vae(nn.Module):
    """The autoencoder: pictures in [−1, 1] <-> z <-> the latents of the U-Net, which are (z − shift) · scale."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        z = config.latent_channels
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1)
        self.post_quant_conv = nn.Conv2d(z, z, 1)
        self.decoder = Decoder(config)

    def _prepare(self, x: Tensor) -> Tensor:
        return x.to(self.decoder.norm_out.weight.dtype, memory_format=torch.channels_last)

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """(B, 3, H, W) in [−1, 1] -> the distribution of z, (B, z, H/f, W/f)."""
        return DiagonalGaussian.from_moments(self.quant_conv(self.encoder(self._prepare(images))))

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [−1, 1] -> the middle features of the encoder, (B, C, H/f, W/f)."""
        return self.encoder.features(self._prepare(images))

    def decode(self, z: Tensor) -> Tensor:
        """(B, z, H/f, W/f) -> pictures (B, 3, H, W), about in [−1, 1], in the network's dtype."""
        return self.decoder(self.post_quant_conv(self._prepare(z)))

    def to_latents(self, z: Tensor) -> Tensor:
        """From z to the latents of the U-Net, with about unit variance."""
        return (z - self.config.shift) * self.config.scale

    def from_latents(self, latents: Tensor) -> Tensor:
        """From the latents of the U-Net to z, the inverse of `to_latents`."""
        return latents / self.config.scale + self.config.shift

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, DiagonalGaussian]:
        """One training pass: the pictures reconstructed from a sample of z, and the distribution of z."""
        posterior = self.encode(images)
        return self.decode(posterior.sample(noise)), posterior
