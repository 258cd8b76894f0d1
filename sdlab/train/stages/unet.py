"""The U-Net stage: denoising of latents, with frozen VAE and text encoder.

The network predicts what its parametrisation says (`sdlab.model.parametrisation`). Captions are dropped at random for
classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sdlab.model.clip import Clip, ClipText
from sdlab.model.config import ModelConfig
from sdlab.model.diffusion import Unet
from sdlab.model.noise_schedule import NAMED
from sdlab.model.parametrisation import parametrisation
from sdlab.model.vae import Vae
from sdlab.system.errors import UsageError
from sdlab.train.data import Batch, CaptionedPictures
from sdlab.train.folder import update
from sdlab.train.losses.denoising import Denoising
from sdlab.train.optimizer import standard
from sdlab.train.randomness import measuring_generator
from sdlab.train.stage import Loss
from sdlab.train.stages.unet_config import UnetTraining
from sdlab.train.timesteps import log_normal, uniform
from sdlab.weights.model_folder import load_part, read_config, save_part
from sdlab.weights.vocabulary import tokenizer_in

Draw = Callable[[int, torch.Generator], Tensor]  # (n, generator) -> timesteps (n,)


class Example(NamedTuple):
    """What a batch of the loss is made of."""

    x0: Tensor  # the clean latents, (B, z, h, w)
    noise: Tensor  # ε, (B, z, h, w)
    t: Tensor  # (B,), float64
    sigma: Tensor  # σ(t), (B,), float64
    tokens: Tensor  # of the captions, (B, L)


class UnetStage:
    """The stage that maps noisy latents, a timestep and a caption to a prediction of the clean latents."""

    def __init__(
        self, config: UnetTraining, pictures: CaptionedPictures, unseen: Mapping[str, CaptionedPictures]
    ) -> None:
        folder = Path(config.model)
        self.dtype: torch.dtype = getattr(torch, config.precision)
        self.config, self.unseen, self.model = config, unseen, (model := _changed(read_config(folder), config))
        vision = model.vision
        clip = ClipText if vision is None else partial(Clip, vision=vision)
        whole = load_part(folder / "clip.safetensors", partial(clip, model.text), config.device)
        self.text = whole.text if isinstance(whole, Clip) else whole
        self.vae = load_part(folder / "vae.safetensors", partial(Vae, model.vae), config.device)
        self.tokenizer = tokenizer_in(folder, model.text)
        self.levels = model.noise_schedule()
        self.error = Denoising(parametrisation(model))
        self.objective = replace(self.error, weighting=config.weighting)
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
        """The denoising loss at random timesteps."""
        batch, latents = self._draw(generator)
        example = self._example(latents.float(), batch, generator, self._timesteps, self.config.drop_caption)
        yield Loss("unet", self._loss(self.objective, example))

    def _timesteps(self, n: int, generator: torch.Generator) -> Tensor:
        """n timesteps (n,) from the distribution in the configuration."""
        if (chosen := self.config.timesteps) is not None:
            return log_normal(n, generator, self.levels, chosen.mean, chosen.std, chosen.shift)
        return uniform(n, generator, self.levels, self.config.focus)

    def _draw(self, generator: torch.Generator) -> tuple[Batch, Tensor]:
        """The pictures of a step and their latents."""
        n = self.config.batch
        if self.cache is None:
            batch = self.pictures.batch(n, generator)
            return batch, self._encode(batch)
        seen, latents = self.cache
        chosen = torch.randint(len(seen), (n,), generator=generator)
        return seen[chosen], latents[chosen]

    def _example(
        self, x0: Tensor, batch: Batch, generator: torch.Generator, timesteps: Draw, drop: float = 0.0
    ) -> Example:
        """Latents with captions, timesteps and noise."""
        n = len(x0)
        captions = batch.captions(generator)
        dropped = torch.rand(n, generator=generator) < drop
        tokens = self.tokenizer(["" if gone else c for gone, c in zip(dropped, captions, strict=True)])
        t = timesteps(n, generator)
        sigma = torch.tensor([self.levels.sigma(one) for one in t.tolist()], dtype=torch.float64)
        return Example(x0, torch.randn(x0.shape, generator=generator).to(x0.device), t, sigma, tokens)

    def _loss(self, objective: Denoising, example: Example) -> Tensor:
        x0, noise, t, sigma, tokens = example
        with torch.no_grad():
            context = self.text(tokens.to(x0.device))
        predicted = self.unet(objective.input(x0, noise, sigma), t.float().to(x0.device), context)
        return objective.loss(predicted.float(), x0, noise, sigma)

    def finish(self) -> dict[str, float]:
        """Measure the unweighted loss at uniform timesteps on each set of unseen pictures. Write the weights.

        The configuration of the model folder gets the prediction and the noise schedule.

        Raises:
            UsageError: `config.json` is invalid.
            RunError: a file cannot be written.
        """
        measured, timesteps = {}, partial(uniform, levels=self.levels)
        for name, pictures in self.unseen.items():
            generator = measuring_generator(self.config.seed)
            errors = []
            for _ in range(8):
                batch = pictures.batch(256, generator)
                example = self._example(self._encode(batch), batch, generator, timesteps)
                with torch.autocast(example.x0.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    errors.append(self._loss(self.error, example))
            measured[f"loss_{name}"] = float(torch.stack(errors).mean())
        folder = Path(self.config.model)
        save_part(folder / "unet.safetensors", self.unet, torch.bfloat16)
        update(folder, prediction=self.model.prediction, levels=self.model.levels)
        return measured


def _changed(model: ModelConfig, config: UnetTraining) -> ModelConfig:
    """The model with the prediction and the noise schedule that the training configuration names.

    Raises:
        UsageError: they do not work together.
    """
    levels = model.levels if config.noise_schedule is None else NAMED[config.noise_schedule]
    try:
        return replace(model, prediction=config.prediction or model.prediction, levels=levels)
    except ValueError as error:
        raise UsageError(f"`prediction` and `noise_schedule`: {error}") from None
