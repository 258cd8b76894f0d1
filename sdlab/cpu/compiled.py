"""A network compiled for inference: its weights packed in advance, what stands between its products fused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sdlab.system.errors import UsageError

Network = Callable[[Tensor, Tensor, Tensor], Tensor]


def compiled(network: nn.Module, device: torch.device) -> Network:
    """The same function; the first call of each shape takes minutes.

    On a CPU the weights become constants in the layout that the products like best, which `pack` does faster and to
    more effect; on a GPU the kernels are replayed as one graph.

    Raises:
        UsageError: there is no compiler to do it with.
    """
    check_compiler(device)
    if device.type == "cuda":
        return torch.compile(network, mode="reduce-overhead")
    return torch.compile(network, options={"freezing": True})


def check_compiler(device: torch.device) -> None:
    """Raises UsageError where a CPU is to compile and there is no C++ compiler; a GPU's comes with PyTorch."""
    compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if device.type != "cuda" and not any(map(shutil.which, compilers)):
        raise UsageError(f"compile: needs a C++ compiler, and there is no {' or '.join(compilers)}")
