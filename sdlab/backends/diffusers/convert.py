"""Conversion of the networks in a single file: the names of diffusers, by its own rules and without reading weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from sdlab.backends.diffusers.library import library, quiet
from sdlab.backends.diffusers.published import UNET, VAE, Text
from sdlab.backends.diffusers.tensor_view import TensorView, view
from sdlab.weights.stored_tensor import StoredTensor

Tensors = Mapping[str, StoredTensor]


def converted(component: str, tensors: Tensors, text: Text | None, config: Mapping[str, Any]) -> dict[str, TensorView]:
    """The tensors of a component under their names in diffusers and transformers.

    Args:
        tensors: all tensors of the file.
        text: the facts about a text encoder.
        config: the configuration of the component.

    Raises:
        UsageError: diffusers or transformers is missing.
    """
    prefix = prefix_of(component, text)
    views = {name: view(name, tensor) for name, tensor in tensors.items() if name.startswith(prefix)}
    rules = library("diffusers.loaders.single_file_utils")
    with quiet():
        if text is None:
            convert = rules.convert_ldm_unet_checkpoint if component == "unet" else rules.convert_ldm_vae_checkpoint
            found = convert(views, config)
        elif text.open_clip:
            views = _used(views, text)
            found = rules.convert_open_clip_checkpoint(SimpleNamespace(config=SimpleNamespace(**config)), views, prefix)
        else:
            found = rules.convert_ldm_clip_checkpoint(views)
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def prefix_of(component: str, text: Text | None) -> str:
    """The prefix of a component's tensors in the file."""
    return text.prefix if text is not None else UNET if component == "unet" else VAE


def _used(views: dict[str, TensorView], text: Text) -> dict[str, TensorView]:
    """The tensors of the layers that are used."""
    return {name: tensor for name, tensor in views.items() if not unused(name, text)}


def unused(name: str, text: Text) -> bool:
    """Whether a tensor of a text encoder belongs to a layer that the family does not use."""
    if not text.projection and name == f"{text.prefix}text_projection":
        return True
    layer = re.match(re.escape(text.prefix) + r"transformer\.resblocks\.(\d+)\.", name)
    return text.layers is not None and layer is not None and int(layer[1]) >= text.layers
