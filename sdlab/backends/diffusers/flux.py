"""FLUX.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from sdlab.backends.diffusers.family import Components, Options, Parts
from sdlab.backends.diffusers.folder import Folder
from sdlab.backends.diffusers.library import library
from sdlab.backends.diffusers.text_to_image import (
    CLIP,
    CLIP_TOKENIZER,
    T5,
    T5_TOKENIZER,
    VAE,
    TextFamily,
    TextParts,
    joined,
    parted,
    vae_factor,
)
from sdlab.model.config import Size

_LATENTS = 128  # per side of a picture of the size that the model was trained on; no configuration has it


class Flux(TextFamily):
    """FLUX.1 dev and schnell: a rectified flow whose network may be distilled from classifier-free guidance.

    A distilled network takes a CFG scale as an input. It is an option of the model, `guidance_input`, and costs no
    further pass. Guidance strategies act on top of it.
    """

    pipelines = ("FluxPipeline",)
    network = "transformer"
    default_scale = 1.0
    components: ClassVar[Components] = {
        "transformer": ("diffusers.FluxTransformer2DModel",),
        "vae": VAE,
        "text_encoder": CLIP,
        "text_encoder_2": T5,
        "tokenizer": CLIP_TOKENIZER,
        "tokenizer_2": T5_TOKENIZER,
    }
    ignored = frozenset({"scheduler", "image_encoder", "feature_extractor"})

    def size(self, folder: Folder) -> Size:
        """128 latents per side."""
        return _LATENTS * vae_factor(folder), _LATENTS * vae_factor(folder)

    def patch(self, folder: Folder) -> int:
        """Patches are 2 × 2 latents."""
        return 2

    def channels(self, folder: Folder) -> int:
        """A quarter of those that the transformer takes, which are a patch."""
        return int(folder.config("transformer", "in_channels", 64)) // 4

    def defaults(self, folder: Folder) -> dict[str, Any]:
        """The number of tokens of T5, and the CFG scale of a distilled network."""
        guided = {"guidance_input": 3.5} if folder.config("transformer", "guidance_embeds") else {}
        return {"max_sequence_length": 512, **guided}

    def build(self, components: Mapping[str, Any], folder: Folder, options: Options, size: Size) -> Parts:
        """The loaded pipeline."""
        return _Parts(library("diffusers").FluxPipeline(**components, scheduler=None), folder, options, size)


class _Parts(TextParts):
    def __init__(self, pipe: Any, folder: Folder, options: Options, size: Size) -> None:
        assert options.max_sequence_length is not None  # by default that of the family
        self._length, self._scale = options.max_sequence_length, options.guidance_input
        super().__init__(pipe, pipe.transformer, folder, size, {"tokenizer_2": self._length})
        self._width = int(pipe.transformer.config.joint_attention_dim)
        self._pooled = int(pipe.transformer.config.pooled_projection_dim)
        height, width = self.shape[1] // 2, self.shape[2] // 2
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        positions = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
        self._positions = positions.to(self.device, self.dtype)  # (H/2 · W/2, 3)

    def encode_some(self, prompts: list[str]) -> Tensor:
        """The states of T5 and the pooled text of CLIP, joined."""
        sequence, pooled, _ = self.pipe.encode_prompt(
            prompts, None, device=self.device, max_sequence_length=self._length
        )
        return joined(sequence, pooled)

    def network(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """The velocity that the transformer predicts. Its time goes from 0 to 1."""
        sequence, pooled = parted(context, self._width, self._pooled)
        found: Tensor = self.denoiser(
            _patches(x.to(self.dtype)),
            encoder_hidden_states=sequence,
            pooled_projections=pooled,
            timestep=t / 1000,
            img_ids=self._positions,
            txt_ids=self._positions.new_zeros(sequence.shape[1], 3),
            guidance=None if self._scale is None else t.new_full((len(x),), self._scale),
            return_dict=False,
        )[0]
        return _picture(found, x)


def _patches(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H/2 · W/2, 4 C), one row per patch of 2 × 2."""
    patches = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, C, H/2, 2, W/2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _picture(patches: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_patches`, in the shape of `like`."""
    _, channels, height, width = like.shape
    parts = patches.unflatten(2, (channels, 2, 2)).unflatten(1, (height // 2, width // 2))
    return parts.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
