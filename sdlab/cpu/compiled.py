"""Compilation of a network for inference by `torch.compile`."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from sdlab.system.errors import UsageError


def compile_for_inference(network: nn.Module, device: torch.device) -> None:
    """Compile a network in place. The first call at each input shape then takes minutes.

    On a CPU, weights become constants in the fastest layout. `pack` gains more and takes less time. On a GPU, kernels
    are replayed as one CUDA graph.

    Raises:
        UsageError: no C++ compiler was found.
    """
    check_compiler(device)
    # PyTorch would try symbolic sizes from the second shape on. With them, Inductor fails on the U-Net (PyTorch 2.13).
    if device.type == "cuda":
        network.compile(mode="reduce-overhead", dynamic=False)
    else:
        network.compile(options={"freezing": True}, dynamic=False)


def is_compiled(network: nn.Module) -> bool:
    """Whether the network has been compiled in place."""
    return network._compiled_call_impl is not None


def check_compiler(device: torch.device) -> None:
    """Check that networks can be compiled for a device. On a GPU, PyTorch includes a compiler.

    Raises:
        UsageError: the device is a CPU and no C++ compiler was found.
    """
    compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if device.type != "cuda" and not any(map(shutil.which, compilers)):
        raise UsageError(f"compile: needs a C++ compiler, but {' or '.join(compilers)} was not found")
