"""Samples of a U-Net in training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import samplers
from sdlab import guidance
from sdlab.denoiser import NetworkDenoiser
from sdlab.model.config import ModelConfig
from sdlab.model.vae import Vae

_SCALE, _STEPS = 3.0, 20


def samples(unet: nn.Module, vae: Vae, model: ModelConfig, contexts: dict[str, Tensor], noise: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) from unit noise (B, z, h, w), in 20 steps of DPM-Solver++(2M) at CFG scale 3.

    `contexts` has those of the captions, `cond` (B, L, width), and of the empty caption, `uncond` (1, L, width).
    """
    denoise = guidance.Guided(guidance.make("cfg", scale=_SCALE), NetworkDenoiser.of(unet, model), contexts)
    sigmas = samplers.grid("linspace", steps=_STEPS, levels=model.noise_schedule())
    with torch.no_grad():
        latents = samplers.run(samplers.make("dpmpp_2m"), denoise, noise * sigmas[0], sigmas)
        return vae.decode(vae.from_latents(latents)).float()
