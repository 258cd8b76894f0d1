"""Loading of stored tensors into networks.

Names and shapes are checked first. Then tensors are read, cast and laid out one at a time, so loading needs little more
memory than the loaded weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn

from samplers.checks import did_you_mean
from sdlab.system.errors import RunError
from sdlab.weights.stored_tensor import AnyTensor, fetch

M = TypeVar("M", bound=nn.Module)


def check(
    tensors: Mapping[str, AnyTensor],
    wanted: Mapping[str, tuple[int, ...]],
    source: str,
    names: Mapping[str, str] | None = None,
) -> None:
    """Check that names and shapes are those of a network.

    Args:
        wanted: our name of a tensor -> its shape.
        source: where the tensors come from, for the message.
        names: our name of a tensor -> its name in the source, for the message.

    Raises:
        RunError: a tensor is unknown, missing or has another shape. The message names the first.
    """
    theirs = dict(names or {})
    for key in sorted(tensors.keys() - wanted.keys()):
        raise RunError(f"{source}: unknown tensor {key!r}{did_you_mean(key, wanted.keys() - tensors.keys())}")
    for key in sorted(wanted.keys() - tensors.keys()):
        raise RunError(f"{source}: tensor {theirs.get(key, key)!r} is missing")
    for key, shape in wanted.items():
        if (found := tuple(tensors[key].shape)) != shape:
            name = theirs.get(key, key)
            raise RunError(f"{source}: tensor {name!r} has shape {found}, but the configuration needs {shape}")


def fill(
    module: M,
    tensors: Mapping[str, AnyTensor],
    device: str | torch.device,
    dtype: torch.dtype,
    kernels: torch.memory_format = torch.channels_last,
) -> M:
    """Load the weights of a network built on the `meta` device, and prepare it for inference.

    `kernels` is the layout of convolutions in memory.

    Raises:
        RunError: the file of a tensor cannot be read.
    """
    state = {}
    for key, tensor in tensors.items():
        layout = kernels if len(tensor.shape) == 4 else torch.contiguous_format
        try:
            # One pass reads, casts and lays out. The pages of the file are released before the next tensor.
            state[key] = torch.empty(tensor.shape, dtype=dtype, device=device, memory_format=layout).copy_(
                fetch(tensor)
            )
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read tensor {key!r}: {error}") from None
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)
