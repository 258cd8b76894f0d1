"""The VAE stage: reconstruction with a small KL divergence (Rombach et al. 2022, arXiv:2112.10752, appendix G)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from sdlab.metrics.psnr import psnr
from sdlab.model.vae import Vae
from sdlab.train.data import CaptionedPictures
from sdlab.train.folder import configuration, update
from sdlab.train.optimizer import standard
from sdlab.train.stage import Loss
from sdlab.train.stages.vae_config import VaeTraining
from sdlab.weights.model_folder import save_part


class VaeStage:
    """The stage that trains the reconstruction of pictures from latents."""

    def __init__(self, config: VaeTraining, pictures: CaptionedPictures, unseen: CaptionedPictures) -> None:
        self.config, self.model = config, configuration(Path(config.model))
        self.pictures, self.unseen = pictures, unseen
        torch.manual_seed(config.seed)
        self.vae = Vae(self.model.vae)
        self.trained = {"vae": standard(self.vae, config)}

    def losses(self, step: int, generator: torch.Generator) -> Iterator[Loss]:
        """Mean absolute and squared error per pixel, plus `kl` times the mean divergence per latent value.

        The absolute error alone is minimal at the median, which stays at the background for a long time where objects
        are small.
        """
        batch = self.config.batch
        images = self.pictures.batch(batch, generator).images().to(self.config.device)
        noise = torch.randn(batch, *self.model.latent_shape, generator=generator).to(self.config.device)
        decoded, posterior = self.vae(images, noise)
        decoded = decoded.float()
        error = decoded - images
        l1, squared = error.abs().mean(), error.square().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        parts = {"l1": l1, "kl": kl, "psnr": psnr(decoded.detach().clamp(-1, 1), images).mean()}
        yield Loss("vae", l1 + 3 * squared + self.config.kl * kl, parts)

    def finish(self) -> dict[str, float]:
        """Measure the PSNR on unseen pictures and the mean and spread of the latents. Write weights, scale and shift.

        Raises:
            RunError: a file cannot be written.
        """
        generator = torch.Generator().manual_seed(2**40 + self.config.seed)
        ratios, latents = [], []
        for _ in range(16):
            images = self.unseen.batch(64, generator).images().to(self.config.device)
            z = self.vae.encode(images).mean
            latents.append(z)
            ratios.append(psnr(self.vae.decode(z).float().clamp(-1, 1), images))
        z = torch.cat(latents)
        vae = replace(self.model.vae, scale=round(1 / float(z.std()), 5), shift=round(float(z.mean()), 5))
        folder = Path(self.config.model)
        update(folder, vae=vae)
        save_part(folder / "vae.safetensors", self.vae, torch.bfloat16)
        return {"psnr_db": float(torch.cat(ratios).mean()), "scale": vae.scale, "shift": vae.shift}
