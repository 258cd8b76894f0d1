"""Networks built without weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_INITIALISE = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


@contextmanager
def unfilled() -> Iterator[None]:
    """Networks built inside the block are on the `meta` device: they have shapes, but no values and no memory."""
    with torch.device("meta"), _NoInitialisation():
        yield


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a network's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


class _NoInitialisation(TorchFunctionMode):
    """Skips the functions of `nn.init`. On the `meta` device they change nothing, take time, and import a compiler."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        return given["tensor"] if func in _INITIALISE else func(*args, **given)
