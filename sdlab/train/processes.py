"""Training in several processes, each with its own batches, started by torchrun.

The gradients are averaged by PyTorch's DistributedDataParallel. The process of rank 0 writes all files.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, inside the block. Yields the device of this one.

    Alone, the process keeps its device. On a machine with several GPUs each process has one of them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    store, number, size = next(rendezvous("env://"))
    # After a restart torchrun's store still has the addresses of the processes that are gone.
    store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", store=store, rank=number, world_size=size)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean(values: list[Tensor]) -> list[Tensor]:
    """The averages of scalars over all processes."""
    if count() == 1:
        return values
    total = torch.stack([value.to(_device(), torch.float64) for value in values])
    dist.all_reduce(total)
    return list(total / count())


def anyone(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if count() == 1:
        return flag
    found = torch.tensor(int(flag), device=_device())
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def _device() -> str:
    """Where the processes exchange tensors."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


class _Scalar(nn.Module):
    """The identity of a scalar that was computed with the module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, value: Tensor) -> Tensor:
        return value


def parallel(module: nn.Module) -> DistributedDataParallel | None:
    """DistributedDataParallel for losses of a module, or None in a single process.

    It is called with a loss and returns it. `backward` of the result averages the gradients of the module over all
    processes. Buffers are not broadcast. Losses may leave parameters unused.
    """
    if count() == 1:
        return None
    with warnings.catch_warnings():
        # `forward_sync_buffers`, which replaces `broadcast_buffers`, is missing in older versions of PyTorch.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(_Scalar(module), broadcast_buffers=False, find_unused_parameters=True)
