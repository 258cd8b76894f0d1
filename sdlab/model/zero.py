"""How residual branches start."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def zeroed(module: M) -> M:
    """The module with all its parameters at zero: the end of a branch that is to start as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
