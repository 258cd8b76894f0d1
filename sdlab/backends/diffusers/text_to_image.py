"""What the text-to-image families share: a VAE, text encoders, and contexts of several tensors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sdlab.backends.diffusers.family import Family, Options, Parts
from sdlab.backends.diffusers.folder import Folder
from sdlab.backends.diffusers.library import quiet
from sdlab.model.config import Size
from sdlab.registry import Mistake

VAE = ("diffusers.AutoencoderKL",)
CLIP = ("transformers.CLIPTextModel",)
CLIP_TOKENIZER = ("transformers.CLIPTokenizer", "transformers.CLIPTokenizerFast")
T5 = ("transformers.T5EncoderModel",)
T5_TOKENIZER = ("transformers.T5Tokenizer", "transformers.T5TokenizerFast")

_PROMPTS = 16  # per pass of the text encoders


class TextFamily(Family):
    """A text-to-image family with a VAE."""

    def multiple(self, folder: Folder) -> int:
        """The factor of the VAE times the patches of a transformer."""
        return vae_factor(folder) * self.patch(folder)

    def patch(self, folder: Folder) -> int:
        """Latents per side of a patch of a transformer."""
        return 1

    def size(self, folder: Folder) -> Size:
        """`sample_size` of the network times the factor of the VAE."""
        height, width = folder.sample_size(self.network)
        return height * vae_factor(folder), width * vae_factor(folder)

    def tokens(self, folder: Folder, size: Size) -> int:
        """The number of patches."""
        side = vae_factor(folder) * self.patch(folder)
        return (size[0] // side) * (size[1] // side)

    def channels(self, folder: Folder) -> int:
        """The channels of the latents that the network takes."""
        return int(folder.config(self.network, "in_channels", 4))

    def check(self, folder: Folder, options: Options, size: Size) -> Iterator[Mistake]:
        """The network must take the latents of the VAE, and nothing else."""
        channels, latents = self.channels(folder), folder.config("vae", "latent_channels", 4)
        if channels != latents:
            yield (
                "",
                f"{folder.place / self.network}/config.json: the network takes {channels} channels and the VAE has "
                f"{latents}; models for inpainting, editing or control are not supported",
            )


class TextParts(Parts):
    """A loaded text-to-image pipeline. `pipe` is that of diffusers, which encodes prompts."""

    def __init__(self, pipe: Any, network: Any, folder: Folder, size: Size, limits: Mapping[str, int]) -> None:
        """`limits` has the number of tokens that is read with each tokenizer."""
        self.pipe, self.folder, self.size, self._limits = pipe, folder, size, limits
        self.denoiser, self.vae = network, pipe.vae
        factor = vae_factor(folder)
        self.shape = int(pipe.vae.config.latent_channels), size[0] // factor, size[1] // factor
        self.device, self.dtype = network.device, network.dtype

    @abstractmethod
    def encode_some(self, prompts: list[str]) -> Tensor:
        """The contexts of a few prompts, (B, …)."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """The contexts of prompts, (B, …)."""
        parts = [list(prompts[k : k + _PROMPTS]) for k in range(0, len(prompts), _PROMPTS)]
        with torch.no_grad(), quiet():
            return torch.cat([self.encode_some(part) for part in parts])

    def contexts(self, prompts: Sequence[str], negative: str) -> tuple[Tensor, Tensor]:
        """The contexts of the prompts and of the negative prompt."""
        return self.encode(prompts), self.encode([negative])

    def cut(self, prompt: str) -> str:
        """The end that not even the text encoder with the highest limit reads."""
        name = max(self._limits, key=lambda one: self._limits[one])
        tokenizer, limit = getattr(self.pipe, name), self._limits[name]
        with quiet():
            tokens = tokenizer(prompt, truncation=False).input_ids
            return str(tokenizer.decode(tokens[limit - 1 : -1])) if len(tokens) > limit else ""

    def to_pictures(self, samples: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), decoded one by one."""
        latents = self._rescaled(samples, back=True).to(self.device, self.vae.dtype)
        return torch.cat([self.vae.decode(one, return_dict=False)[0] for one in latents.split(1)]).float()

    def to_samples(self, pictures: Tensor) -> Tensor:
        """Latents (B, C, H, W) in float32, the means of the VAE's posteriors."""
        parts = pictures.to(self.device, self.vae.dtype).split(1)
        means = torch.cat([self.vae.encode(one).latent_dist.mode() for one in parts])
        return self._rescaled(means.float(), back=False)

    def _rescaled(self, latents: Tensor, back: bool) -> Tensor:
        """Latents z of the VAE in the scale of the network, or back: (z − shift) scale, or (z − mean) scale/std."""
        config = self.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        shift = config.get("shift_factor") or 0.0
        scale: float | Tensor = config.scaling_factor
        if mean is not None and std is not None:
            shift, std = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
            scale = scale / std
        return latents / scale + shift if back else (latents - shift) * scale


def vae_factor(folder: Folder) -> int:
    """Pixels per latent, per side."""
    return int(2 ** (len(folder.config("vae", "block_out_channels", [0])) - 1))


def joined(sequence: Tensor, pooled: Tensor) -> Tensor:
    """A context of a sequence (B, L, width) and a pooled embedding (B, P), as (B, L·width + P)."""
    return torch.cat([sequence.flatten(1), pooled], dim=1)


def parted(context: Tensor, width: int, pooled: int) -> tuple[Tensor, Tensor]:
    """The inverse of `joined`."""
    return context[:, :-pooled].unflatten(1, (-1, width)), context[:, -pooled:]
