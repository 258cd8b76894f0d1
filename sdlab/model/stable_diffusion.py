"""The complete text-to-image model: tokenizer, text encoder, VAE, U-Net and their shared configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import nn

from sdlab.model.clip import Clip, ClipText
from sdlab.model.config import ModelConfig
from sdlab.model.diffusion import Unet
from sdlab.model.tokenizer import Tokenizer
from sdlab.model.unfilled import shapes_of, unfilled
from sdlab.model.vae import Vae

PARTS = ("clip", "vae", "unet")


@dataclass(frozen=True)
class StableDiffusion:
    """A text-to-image model ready for inference: in eval mode, without gradients, in channels-last format."""

    config: ModelConfig
    tokenizer: Tokenizer
    text: ClipText
    clip: Clip | None  # with the vision tower, for models that have one; its `text` is the `text` above
    vae: Vae
    unet: Unet
    device: torch.device
    dtype: torch.dtype
    others: Mapping[str, Unet] = field(default_factory=dict)  # further U-Nets of the configuration, such as "early"
    plain: Unet | None = None  # a copy of the U-Net with gradients, if the U-Net is optimised and has none


@lru_cache(maxsize=8)
def shapes(config: ModelConfig) -> Mapping[str, Mapping[str, tuple[int, ...]]]:
    """The names and shapes of the tensors of a configuration by part. They are kept, because building takes time."""
    return {part: shapes_of(module) for part, module in networks(config).items()}


def networks(config: ModelConfig) -> dict[str, nn.Module]:
    """The networks of a configuration by part (`PARTS`), without weights, on the `meta` device.

    Without a vision tower in the configuration, `clip` is the text transformer alone.
    """
    with unfilled():
        clip = ClipText(config.text) if config.vision is None else Clip(config.text, config.vision)
        return dict(zip(PARTS, (clip, Vae(config.vae), Unet(config.unet)), strict=True))
