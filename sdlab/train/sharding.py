"""Sharding of a network over the processes, with PyTorch's FSDP2.

Each process keeps a part of every weight, of its gradient, of its optimizer state and of its averages. A layer's
weights are whole while it computes, forwards and backwards (Rajbhandari et al. 2019, arXiv:1910.02054, section 5.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from sdlab.train import processes

T = TypeVar("T")


class Sharded(nn.Module):
    """Runs functions that compute with a module, whose weights are sharded from now on.

    Layers in a `ModuleList` are gathered one at a time, and all other weights for the length of the function.
    """

    def __init__(self, module: nn.Module, device: str) -> None:
        super().__init__()
        self.module = module
        mesh = init_device_mesh(torch.device(device).type, (processes.count(),))
        lists = [one for one in module.modules() if isinstance(one, nn.ModuleList)]
        for layer in (layer for one in reversed(lists) for layer in one):  # inner ones first
            fully_shard(layer, mesh=mesh)
        fully_shard(self, mesh=mesh, reshard_after_forward=True)

    def forward(self, function: Callable[[], T]) -> T:
        """The value of the function. Gradients of tensors in it are averaged over the processes."""
        return function()


def whole(state: Any) -> Any:
    """The state with its sharded tensors as whole ones on the CPU; in processes other than the first without them.

    All processes call it at the same time.
    """

    def gathered(value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        full = value.full_tensor()
        return full.cpu() if processes.rank() == 0 else None

    return tree_map(gathered, state)


def fitted(state: Mapping[str, Any], like: Mapping[str, Tensor]) -> dict[str, Any]:
    """Whole tensors in the layout of those of the same name and shape: this process's parts of sharded ones."""
    return {name: _fitted(value, like[name]) if name in like else value for name, value in state.items()}


def fitted_optimizer(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer with tensors in the layout of its parameters, which fused steps rely on."""
    if "state" not in state:
        return dict(state)
    every = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        **state,
        "state": {i: {name: _fitted(v, every[i]) for name, v in one.items()} for i, one in state["state"].items()},
    }


def number(scalar: Tensor) -> float:
    """A scalar, such as a norm, as a number. All processes call it at the same time."""
    return float(scalar.full_tensor() if isinstance(scalar, DTensor) else scalar)


def _fitted(value: Any, like: Tensor) -> Any:
    if not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    if isinstance(like, DTensor):
        whole = value.to(like.device).contiguous()  # as are the parts of `like`
        return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like, dtype=value.dtype).copy_(value)
