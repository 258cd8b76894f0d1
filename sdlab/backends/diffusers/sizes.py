"""Configurations of the networks in a single file: sizes from the shapes of its tensors, the rest as published."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from sdlab.backends.diffusers.published import UNET, VAE, Published, Text
from sdlab.system.errors import RunError
from sdlab.weights.stored_tensor import StoredTensor

_HEAD = 64  # channels per head of attention
_START, _END = 49406, 49407  # ids of CLIP's tokens
_TIME_IDS = 6  # of XL: the original size, the crop and the target size, two numbers each


class Sizes:
    """The sizes in a file, by names of tensors."""

    def __init__(self, path: Path, tensors: Mapping[str, StoredTensor]) -> None:
        self._path, self._tensors = path, tensors
        self._parts = {name[:i] for name in tensors for i, letter in enumerate(name) if letter == "."}

    def has(self, part: str) -> bool:
        """Whether a part of a network has tensors, like "model.diffusion_model.input_blocks.1"."""
        return part in self._parts

    def number(self, part: str, first: int = 0) -> int:
        """How many parts there are: `part` with "0" at its end, then with "1", and so on."""
        return sum(1 for _ in takewhile(lambda i: self.has(f"{part}{i}"), count(first)))

    def axes(self, name: str) -> int:
        """The number of axes of a tensor.

        Raises:
            RunError: there is no such tensor.
        """
        if name not in self._tensors:
            raise RunError(f"{self._path}: tensor {name!r} is missing")
        return len(self._tensors[name].shape)

    def axis(self, name: str, which: int) -> int:
        """The length of an axis of a tensor.

        Raises:
            RunError: there is no such tensor, or no such axis.
        """
        if self.axes(name) <= which:
            shape = self._tensors[name].shape
            raise RunError(f"{self._path}: tensor {name!r} has shape {shape}, which is not that of a known model")
        return self._tensors[name].shape[which]


def unet_config(sizes: Sizes, known: Published, factor: int) -> dict[str, Any]:
    """The configuration of the U-Net. `factor` is that of the VAE.

    Raises:
        RunError: a tensor is missing that gives a size.
    """
    levels: list[list[int]] = [[]]  # the residual blocks of each
    for i in range(1, 1 + sizes.number(f"{UNET}input_blocks.", first=1)):
        if sizes.has(f"{UNET}input_blocks.{i}.0.op"):
            levels.append([])
        else:
            levels[-1].append(i)
    firsts = [level[0] if level else 1 for level in levels]
    widths = [sizes.axis(f"{UNET}input_blocks.{i}.0.out_layers.3.weight", 0) for i in firsts]
    depths = [sizes.number(f"{UNET}input_blocks.{i}.1.transformer_blocks.") for i in firsts]
    attended, middle = [depth > 0 for depth in depths], f"{UNET}middle_block.1."
    # The middle of diffusers has the depth of the last level, which may have no transformers itself.
    depths = [*(depth or 1 for depth in depths[:-1]), sizes.number(f"{middle}transformer_blocks.") or 1]
    config = {
        "sample_size": known.side // factor,
        "in_channels": sizes.axis(f"{UNET}input_blocks.0.0.weight", 1),
        "out_channels": sizes.axis(f"{UNET}out.2.weight", 0),
        "down_block_types": ["CrossAttnDownBlock2D" if one else "DownBlock2D" for one in attended],
        "up_block_types": ["CrossAttnUpBlock2D" if one else "UpBlock2D" for one in reversed(attended)],
        "block_out_channels": widths,
        "layers_per_block": len(levels[0]),
        "transformer_layers_per_block": depths,
        "attention_head_dim": known.heads or [width // _HEAD for width in widths],
        "cross_attention_dim": sizes.axis(f"{middle}transformer_blocks.0.attn2.to_k.weight", 1),
        "use_linear_projection": sizes.axes(f"{middle}proj_in.weight") == 2,
    }
    if "text_encoder_2" in known.texts:
        added = sizes.axis(f"{UNET}label_emb.0.0.weight", 1)
        pooled = sizes.axis(f"{known.texts['text_encoder_2'].prefix}text_projection", 1)
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (added - pooled) // _TIME_IDS,
            "projection_class_embeddings_input_dim": added,
        }
    return config


def vae_config(sizes: Sizes, known: Published) -> dict[str, Any]:
    """The configuration of the VAE.

    Raises:
        RunError: a tensor is missing that gives a size.
    """
    levels = sizes.number(f"{VAE}encoder.down.") or 1
    return {
        "sample_size": known.side,
        "in_channels": sizes.axis(f"{VAE}encoder.conv_in.weight", 1),
        "out_channels": sizes.axis(f"{VAE}decoder.conv_out.weight", 0),
        "latent_channels": sizes.axis(f"{VAE}decoder.conv_in.weight", 1),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": [sizes.axis(f"{VAE}encoder.down.{i}.block.0.conv2.weight", 0) for i in range(levels)],
        "layers_per_block": sizes.number(f"{VAE}encoder.down.0.block."),
        "scaling_factor": known.scale,
        "force_upcast": known.upcast,
    }


def text_config(sizes: Sizes, text: Text) -> dict[str, Any]:
    """The configuration of a text encoder.

    Raises:
        RunError: a tensor is missing that gives a size.
    """
    if text.open_clip:
        tokens, positions = f"{text.prefix}token_embedding.weight", f"{text.prefix}positional_embedding"
        blocks, inner = f"{text.prefix}transformer.resblocks.", "mlp.c_fc.weight"
    else:
        embeddings = f"{text.prefix}text_model.embeddings."
        tokens, positions = f"{embeddings}token_embedding.weight", f"{embeddings}position_embedding.weight"
        blocks, inner = f"{text.prefix}text_model.encoder.layers.", "mlp.fc1.weight"
    width, layers = sizes.axis(tokens, 1), sizes.number(blocks)
    return {
        "vocab_size": sizes.axis(tokens, 0),
        "hidden_size": width,
        "intermediate_size": sizes.axis(f"{blocks}0.{inner}", 0),
        "num_hidden_layers": layers if text.layers is None else min(layers, text.layers),
        "num_attention_heads": width // _HEAD,
        "max_position_embeddings": sizes.axis(positions, 0),
        "hidden_act": "gelu" if text.open_clip else "quick_gelu",
        "projection_dim": sizes.axis(f"{text.prefix}text_projection", 1) if text.projection else width,
        "bos_token_id": _START,
        "eos_token_id": _END,
    }
