"""Train the U-Net on latents of scenes with the frozen VAE and text encoder.

Noise prediction after Ho et al. 2020 (arXiv 2006.11239, Eq. 14) or v-prediction after Salimans & Ho 2022 (arXiv
2202.00512, appendix D); captions are dropped at random for classifier-free guidance (Ho & Salimans 2022, arXiv
2207.12598).
"""

from __future__ import annotations

from functools import partial
from math import log
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.model.clip import Clip, ClipText
from sdlab.model.diffusion import Unet
from sdlab.model.vae import Vae
from sdlab.system.errors import UsageError
from sdlab.train.config import TrainConfig
from sdlab.weights.model_folder import load_part, read_config, save_part
from sdlab.weights.vocabulary import tokenizer_in
from sdlab.worlds import scenes

_SHARE, _WIDTH = 0.7, 0.8  # of the levels drawn around `focus`: how many, and how wide in logits


class UnetStage:
    """Noisy latents, a timestep and a caption -> the noise, or v."""

    def __init__(self, config: TrainConfig) -> None:
        if config.compile:
            # Seen with PyTorch 2.13 on a CPU: after 1,200 steps every transformer's last projection was still zero.
            raise UsageError("compile: not for unet, whose transformers then do not learn; leave it out")
        folder = Path(config.model)
        self.config, self.model = config, (model := read_config(folder))
        vision = model.vision
        clip = ClipText if vision is None else partial(Clip, vision=vision)
        whole = load_part(folder / "clip.safetensors", partial(clip, model.text), config.device)
        self.text = whole.text if isinstance(whole, Clip) else whole
        self.vae = load_part(folder / "vae.safetensors", partial(Vae, model.vae), config.device)
        self.tokenizer = tokenizer_in(folder, model.text.context_length)
        sigma = torch.tensor(model.noise_schedule().sigmas, dtype=torch.float64)
        self.alpha = (1 + sigma.square()).rsqrt().float()  # √ᾱ_t
        self.noise = (sigma * (1 + sigma.square()).rsqrt()).float()  # √(1 − ᾱ_t)
        torch.manual_seed(config.seed)
        self.trained = Unet(model.unet)
        generator = torch.Generator().manual_seed(2**41 + config.seed)
        self.world = scenes.sample(config.scenes, generator, "train")
        self.latents = self._encode(self.world)

    @torch.no_grad()
    def _encode(self, world: scenes.Scenes) -> Tensor:
        """The latents' means, (N, z, h, w), float16 to halve the memory."""
        parts = []
        for start in range(0, len(world), 256):
            images = scenes.render(world[start : start + 256]).to(self.config.device)
            with torch.autocast(images.device.type, torch.bfloat16):
                mean = self.vae.encode(images).mean
            parts.append(self.vae.to_latents(mean.float()).half())
        return torch.cat(parts)

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the prediction at random levels."""
        n = self.config.batch
        chosen = torch.randint(len(self.world), (n,), generator=generator)
        x0, world = self.latents[chosen].float(), self.world[chosen]
        return self._error(x0, world, generator, self.config.drop_caption, self.config.focus), {}

    def _error(
        self,
        x0: Tensor,
        world: scenes.Scenes,
        generator: torch.Generator,
        drop: float = 0.0,
        focus: float | None = None,
    ) -> Tensor:
        n, device = len(x0), x0.device
        captions = scenes.describe(world, generator)
        dropped = torch.rand(n, generator=generator) < drop
        tokens = self.tokenizer(["" if gone else c for gone, c in zip(dropped, captions, strict=True)])
        with torch.no_grad():
            context = self.text(tokens.to(device))
        t = (fractions(n, generator, focus) * len(self.alpha)).long().clamp(max=len(self.alpha) - 1)
        alpha, sigma = self.alpha[t].view(-1, 1, 1, 1).to(device), self.noise[t].view(-1, 1, 1, 1).to(device)
        noise = torch.randn(x0.shape, generator=generator).to(device)
        target = noise if self.model.prediction == "eps" else alpha * noise - sigma * x0
        predicted = self.trained(alpha * x0 + sigma * noise, t.to(device), context)
        return F.mse_loss(predicted.float(), target)

    def finish(self) -> dict[str, float]:
        """The loss on unseen scenes, of trained and of held-out combinations; write the weights."""
        measured = {}
        for split in ("train", "heldout"):
            generator = torch.Generator().manual_seed(2**40 + self.config.seed)
            errors = []
            for _ in range(8):
                world = scenes.sample(256, generator, split)
                x0 = self._encode(world).float()
                with torch.autocast(x0.device.type, torch.bfloat16):
                    errors.append(self._error(x0, world, generator))
            measured[f"loss_{split}"] = float(torch.stack(errors).mean())
        save_part(Path(self.config.model) / "unet.safetensors", self.trained, torch.bfloat16)
        return measured


def fractions(n: int, generator: torch.Generator, focus: float | None) -> Tensor:
    """n places in the table of timesteps, in [0, 1): uniform, or with `focus` most of them around it, in logits normal.

    The normal logits: Esser et al. 2024, arXiv 2403.03206, section 3.1. A share stays uniform, so that all levels are
    learnt. Each n-th of either distribution has one draw: the mean of independent ones, with less variance.
    """

    def spread(count: int) -> Tensor:
        return (torch.arange(count) + torch.rand(count, generator=generator)) / max(count, 1)

    if focus is None:
        return spread(n)
    around = round(_SHARE * n)
    logits = log(focus / (1 - focus)) + _WIDTH * torch.special.ndtri(spread(around).clamp(1e-4, 1 - 1e-4))
    return torch.cat([logits.sigmoid(), spread(n - around)])
