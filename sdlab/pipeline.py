"""Prompts to pictures: encode the text, sample latents, decode them. Each part can be done once and used many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import samplers
from sdlab.denoiser import Counted, NetworkDenoiser
from sdlab.guidance import Guidance
from sdlab.model.model_loader import StableDiffusion

_BATCH = 64  # prompts or latents through the text encoder or the decoder at once


class Pipeline:
    """A loaded model as three functions: `encode`, `sample`, `decode`."""

    def __init__(self, model: StableDiffusion) -> None:
        self.model = model
        self.levels = samplers.discrete_levels(**vars(model.config.levels))
        self.denoiser = Counted(NetworkDenoiser.of(model.unet, model.config))

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """The context of each prompt, (B, L, width), in the model's dtype."""
        tokens = self.model.tokenizer(prompts).to(self.model.device)
        return torch.cat([self.model.text(part) for part in tokens.split(_BATCH)])

    @torch.inference_mode()
    def sample(
        self,
        cond: Tensor,
        uncond: Tensor,
        rule: samplers.Sampler,
        sigmas: Sequence[float],
        guidance: Guidance,
        seeds: Sequence[int],
        on_step: Callable[[int, Tensor], object] | None = None,
    ) -> Tensor:
        """Latents (B, C, H, W) in float32: picture i from row i of the contexts and from `seeds[i]` alone."""
        noise = samplers.seeded(seeds, self.model.device)
        blank = torch.empty(len(seeds), *self.model.config.latent_shape, device=self.model.device)
        denoise = guidance(self.denoiser, cond, uncond)
        return samplers.run(rule, denoise, noise(blank) * sigmas[0], sigmas, noise=noise, on_step=on_step)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in float32, in [−1, 1] and rounded to the 256 levels that a PNG keeps."""
        vae = self.model.vae
        images = torch.cat([vae.decode(vae.from_latents(part)) for part in latents.split(_BATCH)]).float()
        return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [−1, 1] -> (B, H, W, 3) uint8, on the CPU: what PIL and PNG want."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
