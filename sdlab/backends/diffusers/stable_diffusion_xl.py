"""Stable Diffusion XL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sdlab.backends.diffusers.family import Components, Options, Parts
from sdlab.backends.diffusers.folder import Folder
from sdlab.backends.diffusers.library import library
from sdlab.backends.diffusers.stable_diffusion import UNET, UnetFamily, UnetParts
from sdlab.backends.diffusers.text_to_image import CLIP, CLIP_TOKENIZER, VAE, joined, parted
from sdlab.model.config import Size


class StableDiffusionXL(UnetFamily):
    """Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952): two text encoders, a pooled text and time ids.

    The time ids say that the picture has its own size and is not cropped. Without a negative prompt, a folder with
    `force_zeros_for_empty_prompt` has zeros as the unconditional context.
    """

    pipelines = ("StableDiffusionXLPipeline",)
    embedding = "text_time"
    default_scale = 5.0
    components: ClassVar[Components] = {
        "unet": UNET,
        "vae": VAE,
        "text_encoder": CLIP,
        "text_encoder_2": ("transformers.CLIPTextModelWithProjection",),
        "tokenizer": CLIP_TOKENIZER,
        "tokenizer_2": CLIP_TOKENIZER,
    }
    ignored = frozenset({"scheduler", "feature_extractor", "image_encoder"})

    def build(self, components: Mapping[str, Any], folder: Folder, options: Options, size: Size) -> Parts:
        """The loaded pipeline."""
        pipe = library("diffusers").StableDiffusionXLPipeline(**components, scheduler=None, add_watermarker=False)
        return _Parts(pipe, folder, options, size, {"tokenizer": pipe.tokenizer.model_max_length})


class _Parts(UnetParts):
    def __init__(self, pipe: Any, folder: Folder, options: Options, size: Size, limits: Mapping[str, int]) -> None:
        super().__init__(pipe, folder, options, size, limits)
        self._pooled = int(pipe.text_encoder_2.config.projection_dim)
        self._width = int(pipe.unet.config.cross_attention_dim)
        self._ids = pipe._get_add_time_ids(size, (0, 0), size, self.dtype, self._pooled).to(self.device)

    def encode_some(self, prompts: list[str]) -> Tensor:
        """The states of both text encoders and the pooled text of the second, joined."""
        sequence, _, pooled, _ = self.pipe.encode_prompt(
            prompts, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return joined(sequence, pooled)

    def contexts(self, prompts: Sequence[str], negative: str) -> tuple[Tensor, Tensor]:
        """The contexts of the prompts and of the negative prompt, or zeros without one."""
        cond, uncond = super().contexts(prompts, negative)
        zero = not negative and self.folder.index.get("force_zeros_for_empty_prompt", True)
        return cond, torch.zeros_like(uncond) if zero else uncond

    def network(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """The prediction of the U-Net, with the pooled text and the time ids."""
        sequence, pooled = parted(context, self._width, self._pooled)
        added = {"text_embeds": pooled, "time_ids": self._ids.expand(len(x), -1)}
        return self.predict(x, t, sequence, added_cond_kwargs=added)
