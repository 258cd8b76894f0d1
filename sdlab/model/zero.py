"""Zero initialisation of residual branches."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def zeroed(module: M) -> M:
    """The module with all parameters set to zero, for the end of a branch that starts without effect."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
