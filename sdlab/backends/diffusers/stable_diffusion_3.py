"""Stable Diffusion 3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor

from sdlab.backends.diffusers.family import Components, Options, Parts
from sdlab.backends.diffusers.folder import Folder
from sdlab.backends.diffusers.library import library
from sdlab.backends.diffusers.text_to_image import (
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
from sdlab.registry import Mistake

_CLIP = ("transformers.CLIPTextModelWithProjection",)


class StableDiffusion3(TextFamily):
    """Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv:2403.03206): a rectified flow with three text encoders.

    The third, T5, may be missing. Its part of the context is zero then.
    """

    pipelines = ("StableDiffusion3Pipeline",)
    network = "transformer"
    default_scale = 7.0
    components: ClassVar[Components] = {
        "transformer": ("diffusers.SD3Transformer2DModel",),
        "vae": VAE,
        "text_encoder": _CLIP,
        "text_encoder_2": _CLIP,
        "text_encoder_3": (*T5, ""),
        "tokenizer": CLIP_TOKENIZER,
        "tokenizer_2": CLIP_TOKENIZER,
        "tokenizer_3": (*T5_TOKENIZER, ""),
    }
    ignored = frozenset({"scheduler", "image_encoder", "feature_extractor"})

    def patch(self, folder: Folder) -> int:
        """Latents per side of a patch."""
        return int(folder.config("transformer", "patch_size", 2))

    def defaults(self, folder: Folder) -> dict[str, Any]:
        """The number of tokens of T5."""
        return {"max_sequence_length": 256}

    def check(self, folder: Folder, options: Options, size: Size) -> Iterator[Mistake]:
        """There must be positions for all patches."""
        yield from super().check(folder, options, size)
        most = folder.config("transformer", "pos_embed_max_size", 96) * vae_factor(folder) * self.patch(folder)
        if max(size) > most:
            yield "size", f"must be at most {most} pixels for this transformer, got {max(size)}"

    def build(self, components: Mapping[str, Any], folder: Folder, options: Options, size: Size) -> Parts:
        """The loaded pipeline."""
        missing = {name: None for name in self.components if name not in components}
        pipe = library("diffusers").StableDiffusion3Pipeline(**components, **missing, scheduler=None)
        return _Parts(pipe, folder, options, size)


class _Parts(TextParts):
    def __init__(self, pipe: Any, folder: Folder, options: Options, size: Size) -> None:
        assert options.max_sequence_length is not None  # by default that of the family
        limits = {"tokenizer": pipe.tokenizer.model_max_length}
        if pipe.tokenizer_3 is not None:
            limits["tokenizer_3"] = options.max_sequence_length
        super().__init__(pipe, pipe.transformer, folder, size, limits)
        self._length = options.max_sequence_length
        self._width = int(pipe.transformer.config.joint_attention_dim)
        self._pooled = int(pipe.transformer.config.pooled_projection_dim)

    def encode_some(self, prompts: list[str]) -> Tensor:
        """The states of all text encoders and the pooled text of both CLIPs, joined."""
        sequence, _, pooled, _ = self.pipe.encode_prompt(
            prompts, None, None,
            device=self.device, do_classifier_free_guidance=False, max_sequence_length=self._length,
        )  # fmt: skip
        return joined(sequence, pooled)

    def network(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """The velocity that the transformer predicts."""
        sequence, pooled = parted(context, self._width, self._pooled)
        found: Tensor = self.denoiser(
            x.to(self.dtype), encoder_hidden_states=sequence, pooled_projections=pooled, timestep=t, return_dict=False
        )[0]
        return found
