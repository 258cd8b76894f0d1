"""The three networks of a configuration, without numbers: what weights are checked against, and what they fill."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from sdlab.model.clip import Clip, ClipText
from sdlab.model.config import ModelConfig
from sdlab.model.diffusion import Unet
from sdlab.model.vae import Vae
from sdlab.system.errors import RunError, did_you_mean
from sdlab.weights.stored_tensor import AnyTensor

PARTS = ("clip", "vae", "unet")


def networks(config: ModelConfig) -> dict[str, nn.Module]:
    """`clip`, `vae` and `unet` on the `meta` device; `clip` is the text transformer alone without a vision tower."""
    with torch.device("meta"):
        clip = ClipText(config.text) if config.vision is None else Clip(config.text, config.vision)
        return dict(zip(PARTS, (clip, Vae(config.vae), Unet(config.unet)), strict=True))


def check(
    tensors: Mapping[str, AnyTensor], module: nn.Module, source: str, names: Mapping[str, str] | None = None
) -> None:
    """Names and shapes must be those of the network.

    Raises:
        RunError: names the first that is not, and `source`, where the tensors come from; `names`, by ours, are what
            they are called there.
    """
    wanted = {key: tuple(t.shape) for key, t in module.state_dict().items()}
    there = dict(names or {})
    for key in sorted(tensors.keys() - wanted.keys()):
        raise RunError(f"{source}: unknown tensor {key!r}{did_you_mean(key, wanted.keys() - tensors.keys())}")
    for key in sorted(wanted.keys() - tensors.keys()):
        raise RunError(f"{source}: tensor {there.get(key, key)!r} is missing")
    for key, shape in wanted.items():
        if (found := tuple(tensors[key].shape)) != shape:
            name = there.get(key, key)
            raise RunError(f"{source}: tensor {name!r} has shape {found}, the configuration asks for {shape}")
