"""Faster inference for a loaded model, with packed weights and faster kernels."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from sdlab.cpu.attention import attend
from sdlab.cpu.compiled import compile_for_inference, is_compiled
from sdlab.cpu.pack import is_packed, pack
from sdlab.cpu.packed import can_pack
from sdlab.model.attention import Attention, SpatialAttention
from sdlab.model.stable_diffusion import StableDiffusion


def optimise_for_inference(model: StableDiffusion, compile: bool = False, gradients: bool = False) -> StableDiffusion:
    """Make the U-Nets and the VAE of a model faster, in place, where possible.

    On a CPU, in float32 or bfloat16, their weights are packed and long attention in bfloat16 is replaced. Nothing
    changes on other devices and in other dtypes. With `compile`, U-Nets are compiled instead of packed, on any
    device. Networks that are already packed or compiled are skipped, so a second call changes nothing.

    A packed network is for inference only. It has no gradients and no complete state_dict, and it cannot be moved to
    another device or dtype. Models to be saved, trained or offloaded should not be optimised. With `gradients`, the
    result has a copy of the U-Net that is not optimised, if the U-Net is.

    Raises:
        UsageError: `compile` is set and no C++ compiler was found.
    """
    if gradients and not _is_optimised(model.unet) and (compile or can_pack(model.device, model.dtype)):
        model = replace(model, plain=deepcopy(model.unet))
    unets = (model.unet, *model.others.values())
    for unet in unets if compile else ():
        if not _is_optimised(unet):
            compile_for_inference(unet, model.device)
    for network in (*unets, model.vae):
        optimise_network(network, model.device, model.dtype)
    return model


def optimise_network(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Optimise one network with weights on `device` in `dtype`, without compilation."""
    if _is_optimised(network) or not can_pack(device, dtype):
        return
    pack(network)
    for module in network.modules():
        if isinstance(module, Attention | SpatialAttention):
            module.attend = attend


def _is_optimised(network: nn.Module) -> bool:
    return is_packed(network) or is_compiled(network)
