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

from sdlab.system.errors import RunError


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, inside the block, for any number of stages on any devices.

    Raises:
        RunError: another process has ended, or cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    store, number, size = next(rendezvous("env://"))
    # After a restart torchrun's store still has the addresses of the processes that are gone.
    store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group(store=store, rank=number, world_size=size)  # gloo, and on GPUs NCCL
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo/transport" in str(error):  # gloo's own have no class of theirs
            raise RunError(
                "another process of this run has ended or cannot be reached; see its error. The same command continues "
                "from the last checkpoint"
            ) from error
        raise
    finally:
        dist.destroy_process_group()


def own_device(device: str) -> str:
    """The device of this process. On a machine with several GPUs each process has one of them."""
    return f"cuda:{torch.cuda.current_device()}" if count() > 1 and device == "cuda" else device


def wait() -> None:
    """Wait until all processes are here."""
    if count() > 1:
        mean([torch.zeros(())])


@contextmanager
def first_alone() -> Iterator[None]:
    """The block in the first process, and then in the others, which find the files that the first has written.

    An error of the first is no reason for the others to wait in vain; they find the same.
    """
    if rank() > 0:
        wait()
    try:
        yield
    finally:
        if rank() == 0:
            wait()


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
    total = torch.stack([value.to("cpu", torch.float64) for value in values])
    dist.all_reduce(total)
    return list(total / count())


def anyone(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if count() == 1:
        return flag
    found = torch.tensor(int(flag))
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


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
