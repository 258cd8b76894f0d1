"""The optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn

from sdlab.train.average import Decay, exponential
from sdlab.train.config import Training
from sdlab.train.muon import Muon
from sdlab.train.power_average import LENGTHS, PowerAverage
from sdlab.train.stage import Trained

Build = Callable[[nn.Module], torch.optim.Optimizer]


def adamw(lr: float, betas: tuple[float, float], weight_decay: float) -> Build:
    """AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2). Biases and gains are not decayed."""
    return lambda module: _adamw(module.parameters(), lr, betas, weight_decay)


def configured(config: Training, lr: float, betas: tuple[float, float]) -> Build:
    """The optimizer that the configuration names.

    Adam (Kingma & Ba 2014, arXiv:1412.6980, algorithm 1) has no weight decay.
    """
    match config.optimizer:
        case "adamw":
            return adamw(lr, betas, config.weight_decay)
        case "adam":
            return lambda module: torch.optim.Adam(module.parameters(), lr=lr, betas=betas, fused=True)
        case "muon":
            others = partial(_adamw, lr=lr, betas=betas, weight_decay=config.weight_decay)
            return lambda module: Muon(module, lr, config.weight_decay, others)


def standard(module: nn.Module, config: Training, stored: nn.Module | None = None) -> Trained:
    """A module with its optimizer and moving averages, from the configuration."""
    averages: dict[str, Decay] = {"ema": exponential(config.ema)}
    if config.snapshot_every is not None:
        averages |= {f"power_{length}": PowerAverage(length) for length in LENGTHS}
    return Trained(module, configured(config, config.lr, (config.beta1, config.beta2)), averages, stored)


def _adamw(
    parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    every = list(parameters)
    decayed, plain = [p for p in every if p.ndim > 1], [p for p in every if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
