"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from sdlab.backends.diffusers.family import Components, Options, Parts
from sdlab.backends.diffusers.folder import Folder
from sdlab.backends.diffusers.library import library
from sdlab.backends.diffusers.text_to_image import CLIP, CLIP_TOKENIZER, VAE, TextFamily, TextParts
from sdlab.model.config import Size
from sdlab.registry import Mistake

UNET = ("diffusers.UNet2DConditionModel",)


class UnetFamily(TextFamily):
    """A text-to-image family with a U-Net. `embedding` is its `addition_embed_type`."""

    network = "unet"
    embedding: str | None = None

    def defaults(self, folder: Folder) -> dict[str, Any]:
        """The CFG scale that a latent consistency model (Luo et al. 2023, arXiv:2310.04378) takes as an input."""
        return {} if folder.config("unet", "time_cond_proj_dim") is None else {"guidance_input": 8.5}

    def check(self, folder: Folder, options: Options, size: Size) -> Iterator[Mistake]:
        """The U-Net must have the conditions of the family."""
        yield from super().check(folder, options, size)
        known = {"addition_embed_type": self.embedding, "class_embed_type": None, "encoder_hid_dim_type": None}
        for key, value in known.items():
            if (found := folder.config("unet", key)) != value:
                yield "", f"{folder.place}/unet/config.json: {key} is {found!r}, and this family has {value!r}"


class UnetParts(TextParts):
    """A loaded text-to-image pipeline with a U-Net."""

    def __init__(self, pipe: Any, folder: Folder, options: Options, size: Size, limits: Mapping[str, int]) -> None:
        super().__init__(pipe, pipe.unet, folder, size, limits)
        self._scale: Tensor | None = None
        if options.guidance_input is not None:
            width = pipe.unet.config.time_cond_proj_dim
            self._scale = pipe.get_guidance_scale_embedding(torch.tensor([options.guidance_input - 1.0]), width)

    def predict(self, x: Tensor, t: Tensor, context: Tensor, **added: Any) -> Tensor:
        """The prediction of the U-Net for the input x (B, C, H, W) at timesteps t (B,)."""
        scale = None if self._scale is None else self._scale.to(self.device, self.dtype).expand(len(x), -1)
        found: Tensor = self.denoiser(
            x.to(self.dtype), t, encoder_hidden_states=context, timestep_cond=scale, return_dict=False, **added
        )[0]
        return found


class StableDiffusion(UnetFamily):
    """Stable Diffusion 1.x and 2.x (Rombach et al. 2022, arXiv:2112.10752), and latent consistency models of it."""

    pipelines = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline")
    components: ClassVar[Components] = {"unet": UNET, "vae": VAE, "text_encoder": CLIP, "tokenizer": CLIP_TOKENIZER}
    ignored = frozenset({"scheduler", "safety_checker", "feature_extractor", "image_encoder"})

    def build(self, components: Mapping[str, Any], folder: Folder, options: Options, size: Size) -> Parts:
        """The loaded pipeline."""
        unused = dict.fromkeys(("scheduler", "safety_checker", "feature_extractor"))
        pipe = library("diffusers").StableDiffusionPipeline(**components, **unused, requires_safety_checker=False)
        return _Parts(pipe, folder, options, size, {"tokenizer": pipe.tokenizer.model_max_length})


class _Parts(UnetParts):
    def encode_some(self, prompts: list[str]) -> Tensor:
        """The states of the text encoder, (B, L, width)."""
        found: Tensor = self.pipe.encode_prompt(prompts, self.device, 1, False)[0]
        return found

    def network(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """The prediction of the U-Net."""
        return self.predict(x, t, context)
