"""Zero initialisation of residual branches."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def zeroed(module: M) -> M:
    """Set all parameters of the last module of a branch to zero, so that the branch starts without effect."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
