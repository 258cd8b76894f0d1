"""The U-Net stage: denoising of latents, with frozen VAE and text encoder.

The network predicts what its parametrisation says (`sdlab.model.parametrisation`). Captions are dropped at random for
classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import samplers
from sdlab.model.clip import Clip, ClipText
from sdlab.model.parametrisation import parametrisation
from sdlab.model.tokenizer import Tokenizer
from sdlab.model.vae import Vae
from sdlab.train.data import Batch, CaptionedPictures
from sdlab.train.folder import update
from sdlab.train.losses.alignment import FEATURES, Aligned, alignment_loss
from sdlab.train.losses.denoising import Denoising
from sdlab.train.losses.text_alignment import text_alignment_loss
from sdlab.train.optimizer import standard
from sdlab.train.randomness import measuring_generator
from sdlab.train.stage import Loss, Stage
from sdlab.train.stages.unet_config import UnetTraining
from sdlab.train.stages.unet_preview import samples
from sdlab.train.stages.vision import check_trained
from sdlab.train.timesteps import log_normal, uniform
from sdlab.weights.model_folder import load_part, read_config, save_part
from sdlab.weights.vocabulary import tokenizer_in

Timesteps = Callable[[int, torch.Generator], Tensor]  # (n, generator) -> timesteps (n,)


class Example(NamedTuple):
    """What a batch of the loss is made of."""

    images: Tensor | None  # (B, 3, H, W); None if only their cached latents are needed
    cached: Tensor | None  # the indices of the cached pictures, (B,), if there is a cache
    tokens: Tensor  # of the captions, (B, L)
    dropped: Tensor  # whether the caption is replaced by the empty one, (B,)
    t: Tensor  # (B,), float64
    sigma: Tensor  # σ(t), (B,), float64
    noise: Tensor  # ε, (B, z, h, w)


@dataclass(frozen=True)
class Examples:
    """The examples of the loss: pictures of a source, or of a cache, with captions, timesteps and noise."""

    source: CaptionedPictures
    n: int
    shape: tuple[int, int, int]  # of the latents
    tokenizer: Tokenizer
    levels: samplers.TimedLevels
    timesteps: Timesteps
    drop: float = 0.0
    cache: Batch | None = None
    cached_images: bool = False  # whether the pictures of the cache are needed beside their latents

    def __call__(self, generator: torch.Generator) -> Example:
        """One batch."""
        n, chosen = self.n, None
        if self.cache is None:
            batch = self.source.batch(n, generator)
        else:
            chosen = torch.randint(len(self.cache), (n,), generator=generator)
            batch = self.cache[chosen]
        captions = batch.captions(generator)
        dropped = torch.rand(n, generator=generator) < self.drop
        tokens = self.tokenizer(["" if gone else c for gone, c in zip(dropped, captions, strict=True)])
        t = self.timesteps(n, generator)
        sigma = torch.tensor([self.levels.sigma(one) for one in t.tolist()], dtype=torch.float64)
        noise = torch.randn(n, *self.shape, generator=generator)
        images = batch.images() if chosen is None or self.cached_images else None
        return Example(images, chosen, tokens, dropped, t, sigma, noise)


class UnetStage(Stage):
    """The stage that maps noisy latents, a timestep and a caption to a prediction of the clean latents."""

    def __init__(
        self, config: UnetTraining, pictures: CaptionedPictures, unseen: Mapping[str, CaptionedPictures]
    ) -> None:
        folder = Path(config.model)
        self.dtype: torch.dtype = getattr(torch, config.precision)
        self.config, self.unseen, self.model = config, unseen, (model := config.changed(read_config(folder)))
        vision = model.vision
        clip = ClipText if vision is None else partial(Clip, vision=vision)
        whole = load_part(folder / "clip.safetensors", partial(clip, model.text), config.device)
        self.text = whole.text if isinstance(whole, Clip) else whole
        self.clip = whole if isinstance(whole, Clip) else None
        self.vae = load_part(folder / "vae.safetensors", partial(Vae, model.vae), config.device)
        self.tokenizer = tokenizer_in(folder, model.text)
        self.levels = model.noise_schedule()
        self.error = Denoising(parametrisation(model))
        self.objective = replace(self.error, weighting=config.weighting)
        torch.manual_seed(config.seed)
        self.unet = config.network(model)
        self.features = self.aligned = None
        if (alignment := config.alignment) is not None:
            self.features = FEATURES[alignment.features](partial(self._trained_clip, "alignment"), self.vae)
            self.aligned = Aligned(self.unet, self.features.width, alignment.hidden)
        self.trained = {"unet": standard(self.aligned or self.unet, config, stored=self.unet)}
        self.scorer = None if config.text_alignment is None else self._trained_clip("text_alignment")
        self.draw = Examples(
            pictures,
            config.batch,
            config.latent_shape(model),
            self.tokenizer,
            self.levels,
            _timesteps(config, self.levels),
            config.drop_caption,
            cached_images=self.features is not None,
        )
        self.cache: Tensor | None = None  # latents
        if config.cache is not None:
            seen = pictures.batch(config.cache, torch.Generator().manual_seed(config.seed))
            self.draw = replace(self.draw, cache=seen)
            self.cache = torch.cat([self._encode(seen[i : i + 64].images()) for i in range(0, len(seen), 64)]).half()

    def _trained_clip(self, key: str) -> Clip:
        """The model's CLIP, which the table `key` needs.

        Raises:
            UsageError: it has no vision encoder, or one that was never trained.
        """
        self.config.check_vision(self.model, f"`{key}`")
        assert self.clip is not None
        check_trained(self.clip.vision, Path(self.config.model) / "clip.safetensors", key)
        return self.clip

    @torch.no_grad()
    def _encode(self, images: Tensor) -> Tensor:
        """The means of the latents, (N, z, h, w) float32."""
        images = images.to(self.config.device)
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            mean = self.vae.encode(images).mean
        return self.vae.to_latents(mean.float())

    def losses(self, step: int, batch: Example) -> Iterator[Loss]:
        """The denoising loss at random timesteps, and the alignment losses that are switched on."""
        x0, noise = self._latents(batch)
        predicted, projected = self._predict(batch, x0, noise)
        loss = self.objective.loss(predicted, x0, noise, batch.sigma)
        parts = {}
        if (alignment := self.config.alignment) is not None and projected is not None:
            parts["alignment"] = alignment_loss(projected, self._features(batch, x0))
            loss = loss + alignment.weight * parts["alignment"]
        if (text := self.config.text_alignment) is not None:
            parts["text_alignment"] = self._text_alignment(batch, x0, noise, predicted, text.below)
            loss = loss + text.weight * parts["text_alignment"]
        yield Loss("unet", loss, parts)

    def _latents(self, example: Example) -> tuple[Tensor, Tensor]:
        """The clean latents and the noise on the device, (B, z, h, w) float32."""
        if example.cached is not None and self.cache is not None:
            x0 = self.cache[example.cached.to(self.cache.device)].float()
        else:
            assert example.images is not None
            x0 = self._encode(example.images)
        return x0, example.noise.to(x0.device)

    def _predict(self, example: Example, x0: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """The prediction in float32, and the projected middle features if they are aligned."""
        with torch.no_grad():
            context = self.text(example.tokens.to(x0.device))
        scaled = self.objective.input(x0, noise, example.sigma)
        t = example.t.float().to(x0.device)
        if self.aligned is None:
            return self.unet(scaled, t, context).float(), None
        projected, predicted = self.aligned(scaled, t, context)
        return predicted.float(), projected

    @torch.no_grad()
    def _features(self, example: Example, latents: Tensor) -> Tensor:
        """The frozen features of the clean pictures, (B, C, H, W)."""
        assert self.features is not None
        assert example.images is not None
        return self.features.of(example.images.to(self.config.device), latents)

    def _text_alignment(self, example: Example, x0: Tensor, noise: Tensor, predicted: Tensor, below: float) -> Tensor:
        """The loss on predicted pictures at σ below a level whose captions were not dropped; 0 without any."""
        assert self.scorer is not None
        chosen = ((example.sigma < below) & ~example.dropped).to(predicted.device)
        if not chosen.any():
            return predicted.new_zeros(())
        clean = self.objective.x0(predicted, x0, noise, example.sigma)[chosen]
        pictures = self.vae.decode(self.vae.from_latents(clean))
        return text_alignment_loss(self.scorer, pictures, example.tokens.to(predicted.device)[chosen])

    def preview(self) -> Tensor:
        """Eight pictures, and samples of their captions beneath."""
        generator, device = measuring_generator(self.config.seed), self.config.device
        batch = self.draw.source.batch(8, generator)
        captions, empty = self.tokenizer(batch.captions(generator)), self.tokenizer([""])
        contexts = {"cond": self.text(captions.to(device)), "uncond": self.text(empty.to(device))}
        noise = torch.randn(8, *self.draw.shape, generator=generator).to(device)
        return torch.stack([batch.images().to(device), samples(self.unet, self.vae, self.model, contexts, noise)])

    def finish(self) -> dict[str, float]:
        """Measure the unweighted loss at uniform timesteps on each set of unseen pictures. Write the weights.

        The configuration of the model folder gets the prediction and the noise schedule.

        Raises:
            UsageError: `config.json` is invalid.
            RunError: a file cannot be written.
        """
        measured, uniformly = {}, partial(uniform, levels=self.levels)
        for name, pictures in self.unseen.items():
            generator = measuring_generator(self.config.seed)
            draw = Examples(pictures, 256, self.draw.shape, self.tokenizer, self.levels, uniformly)
            errors = []
            for _ in range(8):
                example = draw(generator)
                x0, noise = self._latents(example)
                with torch.autocast(x0.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    predicted, _ = self._predict(example, x0, noise)
                errors.append(self.error.loss(predicted, x0, noise, example.sigma))
            measured[f"loss_{name}"] = float(torch.stack(errors).mean())
        folder = Path(self.config.model)
        save_part(folder / self.config.writes(), self.unet, torch.bfloat16)
        update(folder, prediction=self.model.prediction, levels=self.model.levels)
        return measured


def _timesteps(config: UnetTraining, levels: samplers.TimedLevels) -> Timesteps:
    """The distribution of timesteps in the configuration."""
    if (chosen := config.timesteps) is not None:
        return partial(log_normal, levels=levels, mean=chosen.mean, std=chosen.std, shift=chosen.shift)
    return partial(uniform, levels=levels, focus=config.focus)
