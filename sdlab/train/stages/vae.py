"""Train the VAE on rendered scenes: reconstruction and a small KL (Rombach et al. 2022, 2112.10752, appendix G)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sdlab.model.vae import Vae
from sdlab.train.config import TrainConfig
from sdlab.train.folder import configuration, update
from sdlab.weights.model_folder import save_part
from sdlab.worlds import scenes


class VaeStage:
    """Pictures -> latents -> the same pictures."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.model = config, configuration(Path(config.model))
        torch.manual_seed(config.seed)
        self.trained = Vae(self.model.vae)

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Absolute and squared error of a pixel, and `kl` × the divergence of a latent number, each a mean.

        The absolute error alone asks for the median, which is slow to leave the background where objects are small.
        """
        batch = self.config.batch
        images = scenes.render(scenes.sample(batch, generator)).to(self.config.device)
        noise = torch.randn(batch, *self.model.latent_shape, generator=generator).to(self.config.device)
        decoded, posterior = self.trained(images, noise)
        decoded = decoded.float()
        error = decoded - images
        l1, squared = error.abs().mean(), error.square().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return l1 + 3 * squared + self.config.kl * kl, {
            "l1": l1,
            "kl": kl,
            "psnr": psnr(decoded.detach(), images).mean(),
        }

    def finish(self) -> dict[str, float]:
        """Measure PSNR on unseen scenes and the latents' spread, which sets `scale` and `shift`; write both."""
        generator = torch.Generator().manual_seed(2**40 + self.config.seed)
        ratios, latents = [], []
        for _ in range(16):
            images = scenes.render(scenes.sample(64, generator, "all")).to(self.config.device)
            z = self.trained.encode(images).mean
            latents.append(z)
            ratios.append(psnr(self.trained.decode(z).float(), images))
        z = torch.cat(latents)
        vae = replace(self.model.vae, scale=round(1 / float(z.std()), 5), shift=round(float(z.mean()), 5))
        folder = Path(self.config.model)
        update(folder, vae=vae)
        save_part(folder / "vae.safetensors", self.trained, torch.bfloat16)
        return {"psnr_db": float(torch.cat(ratios).mean()), "scale": vae.scale, "shift": vae.shift}


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in [−1, 1], (B,)."""
    error = (a.clamp(-1, 1) - b).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error)
