"""PixArt-α and PixArt-Σ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from sdlab.backends.diffusers.family import Components, Options, Parts
from sdlab.backends.diffusers.folder import Folder
from sdlab.backends.diffusers.library import library
from sdlab.backends.diffusers.text_to_image import T5, T5_TOKENIZER, VAE, TextFamily, TextParts
from sdlab.model.config import Size

_LENGTHS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}  # tokens of T5


class PixArt(TextFamily):
    """PixArt-α and PixArt-Σ (Chen et al. 2023, arXiv:2310.00426; 2024, arXiv:2403.04692).

    The network attends only to the tokens of the text, so a context has a mask, to which no noise can be added.
    """

    pipelines = tuple(_LENGTHS)
    network = "transformer"
    default_scale = 4.5
    components: ClassVar[Components] = {
        "transformer": ("diffusers.PixArtTransformer2DModel", "diffusers.Transformer2DModel"),
        "vae": VAE,
        "text_encoder": T5,
        "tokenizer": T5_TOKENIZER,
    }
    masked = True

    def patch(self, folder: Folder) -> int:
        """Latents per side of a patch."""
        return int(folder.config("transformer", "patch_size", 2))

    def defaults(self, folder: Folder) -> dict[str, Any]:
        """The number of tokens of T5."""
        return {"max_sequence_length": _LENGTHS[folder.index["_class_name"]]}

    def build(self, components: Mapping[str, Any], folder: Folder, options: Options, size: Size) -> Parts:
        """The loaded pipeline."""
        pipe = getattr(library("diffusers"), folder.index["_class_name"])(**components, scheduler=None)
        return _Parts(pipe, folder, options, size)


class _Parts(TextParts):
    def __init__(self, pipe: Any, folder: Folder, options: Options, size: Size) -> None:
        assert options.max_sequence_length is not None  # by default that of the family
        self._length = options.max_sequence_length
        super().__init__(pipe, pipe.transformer, folder, size, {"tokenizer": self._length})
        # The pipelines give the size to models of this size alone.
        self._sized = pipe.transformer.config.sample_size == 128

    def encode_some(self, prompts: list[str]) -> Tensor:
        """The states of T5 with the mask as a last column, (B, L, width + 1)."""
        states, mask, _, _ = self.pipe.encode_prompt(
            prompts, False, device=self.device, max_sequence_length=self._length
        )
        return torch.cat([states, mask.to(states)[..., None]], dim=2)

    def network(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """The prediction of the transformer. A variance that it predicts too is left out."""
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self._sized:
            sides = context.new_tensor(self.size).expand(len(x), 2)
            added = {"resolution": sides, "aspect_ratio": sides[:, :1] / sides[:, 1:]}
        found: Tensor = self.denoiser(
            x.to(self.dtype),
            encoder_hidden_states=context[..., :-1],
            encoder_attention_mask=context[..., -1],
            timestep=t,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return found[:, : x.shape[1]]
