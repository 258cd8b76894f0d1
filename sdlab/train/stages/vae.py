"""The VAE stage (Rombach et al. 2022, arXiv:2112.10752, appendix G).

The loss is the reconstruction error and a small KL divergence, and optionally a perceptual distance and the loss of a
patch discriminator (Esser et al. 2021, arXiv:2012.09841, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sdlab.metrics import openai_clip
from sdlab.metrics.psnr import psnr
from sdlab.model.clip import Clip
from sdlab.train.data import CaptionedPictures
from sdlab.train.folder import configuration, update
from sdlab.train.losses.adversarial import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from sdlab.train.losses.perceptual import ClipFeatures, perceptual_distance
from sdlab.train.optimizer import configured, standard
from sdlab.train.randomness import measuring_generator
from sdlab.train.stage import Loss, Stage, Trained
from sdlab.train.stages.reconstruction import measure
from sdlab.train.stages.vae_config import Adversarial, Perceptual, VaeTraining
from sdlab.train.stages.vision import check_trained
from sdlab.weights.model_folder import load_part, save_part


@dataclass(frozen=True)
class _Draw:
    """Pictures (B, 3, H, W), and the noise (B, z, h, w) of their latents."""

    source: CaptionedPictures
    n: int
    shape: tuple[int, int, int]  # of a picture's latents

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images = self.source.batch(self.n, generator).images()
        return images, torch.randn(self.n, *self.shape, generator=generator)


class VaeStage(Stage):
    """The stage that trains the reconstruction of pictures from latents."""

    def __init__(self, config: VaeTraining, pictures: CaptionedPictures, unseen: CaptionedPictures) -> None:
        self.config, self.model = config, configuration(Path(config.model))
        self.draw, self.unseen = _Draw(pictures, config.batch, config.latent_shape(self.model)), unseen
        torch.manual_seed(config.seed)
        self.vae = config.network(self.model)
        vae = standard(self.vae, config)
        self.trained = {"vae": vae}
        self.features = None if config.perceptual is None else self._frozen_features(config.perceptual)
        if (adversarial := config.adversarial) is not None:
            self.discriminator = PatchDiscriminator(adversarial.width, adversarial.spectral_norm)
            betas = adversarial.beta1, adversarial.beta2
            vae = replace(vae, optimizer=configured(config, config.lr, betas))
            critic = Trained(self.discriminator, configured(config, adversarial.lr or config.lr, betas))
            self.trained = {"vae": vae, "discriminator": critic}

    def _frozen_features(self, perceptual: Perceptual) -> ClipFeatures:
        if perceptual.weights is not None:
            return ClipFeatures(openai_clip.load(perceptual.weights, self.config.device)[0].vision)
        self.config.check_vision(self.model, "`perceptual`")
        assert self.model.vision is not None
        path = Path(self.config.model) / "clip.safetensors"
        vision = load_part(path, partial(Clip, self.model.text, self.model.vision), self.config.device).vision
        check_trained(vision, path, "perceptual")
        return ClipFeatures(vision)

    def losses(self, step: int, batch: tuple[Tensor, Tensor]) -> Iterator[Loss]:
        """The VAE's loss, and from `adversarial.start` on the discriminator's.

        The absolute error alone is minimal at the median, which stays at the background for a long time where objects
        are small. The KL divergence is a mean over latent values.
        """
        images, noise = (one.to(self.config.device) for one in batch)
        decoded, posterior = self.vae(images, noise)
        decoded = decoded.float()
        error = decoded - images
        l1, squared = error.abs().mean(), error.square().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        parts = {"l1": l1, "kl": kl, "psnr": psnr(decoded.detach().clamp(-1, 1), images).mean()}
        reconstruction = self.config.l1 * l1 + self.config.l2 * squared
        if self.config.perceptual is not None and self.features is not None:
            parts["perceptual"] = perceptual_distance(self.features, decoded, images).mean()
            reconstruction = reconstruction + self.config.perceptual.weight * parts["perceptual"]
        loss = reconstruction + self.config.kl * kl
        adversarial = self.config.adversarial
        if adversarial is None or step < adversarial.start:
            yield Loss("vae", loss, parts)
            return
        fooled = generator_loss(self.discriminator(decoded), adversarial.form)
        weight = torch.tensor(adversarial.weight)
        if adversarial.adaptive:
            weight = weight * adaptive_weight(reconstruction, fooled, self.vae.decoder.conv_out.weight)
        yield Loss("vae", loss + weight * fooled, {**parts, "adversarial": fooled, "adversarial_weight": weight})
        yield self._critic(step, images, decoded.detach(), adversarial)

    def _critic(self, step: int, real: Tensor, fake: Tensor, adversarial: Adversarial) -> Loss:
        logits = self.discriminator(real), self.discriminator(fake)
        loss = discriminator_loss(*logits, adversarial.form)
        parts = {"real_logit": logits[0].mean(), "fake_logit": logits[1].mean()}
        if adversarial.r1 and step % adversarial.r1_every == 0:
            parts["r1"] = gradient_penalty(self.discriminator, real)
            # As much in sum as a penalty at every step (Karras et al. 2020, arXiv:1912.04958, section 3.1).
            loss = loss + adversarial.r1 / 2 * adversarial.r1_every * parts["r1"]
        return Loss("discriminator", loss, parts)

    def preview(self) -> Tensor:
        """Eight unseen pictures, and their reconstructions beneath."""
        images = self.unseen.batch(8, measuring_generator(self.config.seed)).images().to(self.config.device)
        return torch.stack([images, self.vae.decode(self.vae.encode(images).mean).float()])

    def finish(self) -> dict[str, float]:
        """Measure reconstructions of unseen pictures. Write the weights, and the scale and shift of the latents.

        Raises:
            RunError: a file cannot be written.
        """
        latents: list[Tensor] = []

        def reconstruct(images: Tensor) -> Tensor:
            latents.append(self.vae.encode(images).mean)
            return self.vae.decode(latents[-1])

        folder, generator = Path(self.config.model), measuring_generator(self.config.seed)
        measured = measure(reconstruct, self.unseen, folder, generator, self.config.device)
        z = torch.cat(latents)
        vae = replace(self.model.vae, scale=round(1 / float(z.std()), 5), shift=round(float(z.mean()), 5))
        update(folder, vae=vae)
        save_part(folder / self.config.writes(), self.vae, torch.bfloat16)
        return {**measured, "scale": vae.scale, "shift": vae.shift}
