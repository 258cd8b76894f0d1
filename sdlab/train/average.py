"""Moving averages of weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Decay = Callable[[int], float]  # the decay factor by step


def exponential(decay: float) -> Decay:
    """A constant decay, smaller during the first steps so that the initial weights are soon forgotten."""
    return lambda step: min(decay, (1 + step) / (10 + step))


class Average:
    """A moving average of a module's floating-point state. Integer buffers are copied."""

    def __init__(self, module: nn.Module, decay: Decay) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {k: v.detach().clone() for k, v in module.state_dict().items()}

    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards the module's current weights."""
        live = module.state_dict()
        floating = [k for k, v in live.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.state[k] for k in floating], [live[k] for k in floating], 1 - self.decay(step))
        for k, v in live.items():
            if not v.is_floating_point():
                self.state[k].copy_(v)
