"""The U-Net stage: denoising of latents, with frozen VAE and text encoder.

The network predicts the noise (Ho et al. 2020, arXiv:2006.11239, eq. 14) or v (Salimans & Ho 2022, arXiv:2202.00512,
appendix D). Captions are dropped at random for classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598,
algorithm 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from math import log
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.model.clip import Clip, ClipText
from sdlab.model.diffusion import Unet
from sdlab.model.vae import Vae
from sdlab.train.data import Batch, CaptionedPictures
from sdlab.train.optimizer import standard
from sdlab.train.randomness import measuring_generator
from sdlab.train.stage import Loss
from sdlab.train.stages.unet_config import UnetTraining
from sdlab.weights.model_folder import load_part, read_config, save_part
from sdlab.weights.vocabulary import tokenizer_in

_SHARE, _WIDTH = 0.7, 0.8  # the share of timesteps drawn around `focus`, and their spread in logits


class UnetStage:
    """The stage that maps noisy latents, a timestep and a caption to the noise or v."""

    def __init__(
        self, config: UnetTraining, pictures: CaptionedPictures, unseen: Mapping[str, CaptionedPictures]
    ) -> None:
        folder = Path(config.model)
        self.dtype: torch.dtype = getattr(torch, config.precision)
        self.config, self.unseen, self.model = config, unseen, (model := read_config(folder))
        vision = model.vision
        clip = ClipText if vision is None else partial(Clip, vision=vision)
        whole = load_part(folder / "clip.safetensors", partial(clip, model.text), config.device)
        self.text = whole.text if isinstance(whole, Clip) else whole
        self.vae = load_part(folder / "vae.safetensors", partial(Vae, model.vae), config.device)
        self.tokenizer = tokenizer_in(folder, model.text)
        sigma = torch.tensor(model.noise_schedule().sigmas, dtype=torch.float64)
        self.alpha = (1 + sigma.square()).rsqrt().float()  # √ᾱ_t
        self.noise = (sigma * (1 + sigma.square()).rsqrt()).float()  # √(1 − ᾱ_t)
        torch.manual_seed(config.seed)
        self.unet = Unet(model.unet)
        self.trained = {"unet": standard(self.unet, config)}
        self.pictures = pictures
        self.cache: tuple[Batch, Tensor] | None = None
        if config.cache is not None:
            seen = pictures.batch(config.cache, torch.Generator().manual_seed(2**41 + config.seed))
            self.cache = seen, self._encode(seen).half()

    @torch.no_grad()
    def _encode(self, batch: Batch) -> Tensor:
        """The means of the latents, (N, z, h, w) float32."""
        parts = []
        for start in range(0, len(batch), 64):
            images = batch[start : start + 64].images().to(self.config.device)
            with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
                mean = self.vae.encode(images).mean
            parts.append(self.vae.to_latents(mean.float()))
        return torch.cat(parts)

    def losses(self, step: int, generator: torch.Generator) -> Iterator[Loss]:
        """Mean squared error of the prediction at random timesteps."""
        batch, latents = self._draw(generator)
        drop, focus = self.config.drop_caption, self.config.focus
        yield Loss("unet", self._error(latents.float(), batch, generator, drop, focus))

    def _draw(self, generator: torch.Generator) -> tuple[Batch, Tensor]:
        """The pictures of a step and their latents."""
        n = self.config.batch
        if self.cache is None:
            batch = self.pictures.batch(n, generator)
            return batch, self._encode(batch)
        seen, latents = self.cache
        chosen = torch.randint(len(seen), (n,), generator=generator)
        return seen[chosen], latents[chosen]

    def _error(
        self, x0: Tensor, batch: Batch, generator: torch.Generator, drop: float = 0.0, focus: float | None = None
    ) -> Tensor:
        n, device = len(x0), x0.device
        captions = batch.captions(generator)
        dropped = torch.rand(n, generator=generator) < drop
        tokens = self.tokenizer(["" if gone else c for gone, c in zip(dropped, captions, strict=True)])
        with torch.no_grad():
            context = self.text(tokens.to(device))
        t = (fractions(n, generator, focus) * len(self.alpha)).long().clamp(max=len(self.alpha) - 1)
        alpha, sigma = self.alpha[t].view(-1, 1, 1, 1).to(device), self.noise[t].view(-1, 1, 1, 1).to(device)
        noise = torch.randn(x0.shape, generator=generator).to(device)
        target = noise if self.model.prediction == "eps" else alpha * noise - sigma * x0
        predicted = self.unet(alpha * x0 + sigma * noise, t.to(device), context)
        return F.mse_loss(predicted.float(), target)

    def finish(self) -> dict[str, float]:
        """Measure the loss on each set of unseen pictures. Write the weights.

        Raises:
            RunError: the weights cannot be written.
        """
        measured = {}
        for name, pictures in self.unseen.items():
            generator = measuring_generator(self.config.seed)
            errors = []
            for _ in range(8):
                batch = pictures.batch(256, generator)
                x0 = self._encode(batch)
                with torch.autocast(x0.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    errors.append(self._error(x0, batch, generator))
            measured[f"loss_{name}"] = float(torch.stack(errors).mean())
        save_part(Path(self.config.model) / "unet.safetensors", self.unet, torch.bfloat16)
        return measured


def fractions(n: int, generator: torch.Generator, focus: float | None) -> Tensor:
    """n positions in the noise schedule in [0, 1), (n,).

    They are uniform without `focus`. With `focus` most are logit-normal around it (Esser et al. 2024, arXiv:2403.03206,
    section 3.1), and the rest are uniform so that every timestep is learnt. Each distribution is stratified, with one
    draw per quantile bin. That has the mean of independent draws and less variance.
    """

    def spread(count: int) -> Tensor:
        return (torch.arange(count) + torch.rand(count, generator=generator)) / max(count, 1)

    if focus is None:
        return spread(n)
    around = round(_SHARE * n)
    logits = log(focus / (1 - focus)) + _WIDTH * torch.special.ndtri(spread(around).clamp(1e-4, 1 - 1e-4))
    return torch.cat([logits.sigmoid(), spread(n - around)])
