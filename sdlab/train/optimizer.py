"""The optimizer and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from sdlab.train.average import Decay, exponential
from sdlab.train.config import Training
from sdlab.train.power_average import LENGTHS, PowerAverage
from sdlab.train.stage import Trained


def adamw(lr: float, betas: tuple[float, float], weight_decay: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2). Biases and gains are not decayed."""

    def build(module: nn.Module) -> torch.optim.Optimizer:
        decayed = [p for p in module.parameters() if p.ndim > 1]
        plain = [p for p in module.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)

    return build


def standard(module: nn.Module, config: Training, stored: nn.Module | None = None) -> Trained:
    """A module with AdamW and its moving averages, from the configuration."""
    optimizer = adamw(config.lr, (0.9, config.beta2), config.weight_decay)
    averages: dict[str, Decay] = {"ema": exponential(config.ema)}
    if config.snapshot_every is not None:
        averages |= {f"power_{length}": PowerAverage(length) for length in LENGTHS}
    return Trained(module, optimizer, averages, stored)


def learning_rate(step: int, peak: float, warmup: int, steps: int) -> float:
    """Linear warm-up to `peak`, then a half cosine down to 0 at `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
