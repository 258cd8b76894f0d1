"""The distribution of timesteps in training."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

import samplers

_SHARE, _WIDTH = 0.7, 0.8  # the share of timesteps drawn around `focus`, and their spread in logits


def uniform(n: int, generator: torch.Generator, levels: samplers.TimedLevels, focus: float | None = None) -> Tensor:
    """n timesteps (n,), float64, uniform in the noise schedule or most of them around the position `focus`."""
    positions = fractions(n, generator, focus)
    if isinstance(levels, samplers.DiscreteLevels):
        return (positions * levels.n).long().clamp(max=levels.n - 1).double()
    return levels.t_min + positions.double() * (levels.t_max - levels.t_min)


def log_normal(
    n: int, generator: torch.Generator, levels: samplers.TimedLevels, mean: float, std: float, shift: float = 1.0
) -> Tensor:
    """n timesteps (n,), float64, for which ln(σ/shift) is normal (Karras et al. 2022, arXiv:2206.00364, table 1).

    In a rectified flow ln σ = logit t, so this is its logit-normal distribution, with the shift of t for larger
    pictures (Esser et al. 2024, arXiv:2403.03206, section 3.1 and eq. 23). σ is clamped to the noise schedule, and in a
    table the nearest timestep is taken.
    """
    normal = torch.special.ndtri(_spread(n, generator).double().clamp(1e-6, 1 - 1e-6))
    t = torch.tensor([levels.t(sigma) for sigma in (shift * (mean + std * normal).exp()).tolist()], dtype=torch.float64)
    return t.round() if isinstance(levels, samplers.DiscreteLevels) else t


def fractions(n: int, generator: torch.Generator, focus: float | None) -> Tensor:
    """n positions in the noise schedule in [0, 1), (n,).

    They are uniform without `focus`. With `focus` most are logit-normal around it (Esser et al. 2024, arXiv:2403.03206,
    section 3.1), and the rest are uniform so that every timestep is learnt. Each distribution is stratified, with one
    draw per quantile bin. That has the mean of independent draws and less variance.
    """
    if focus is None:
        return _spread(n, generator)
    around = round(_SHARE * n)
    logits = log(focus / (1 - focus)) + _WIDTH * torch.special.ndtri(_spread(around, generator).clamp(1e-4, 1 - 1e-4))
    return torch.cat([logits.sigmoid(), _spread(n - around, generator)])


def _spread(count: int, generator: torch.Generator) -> Tensor:
    """Uniform in [0, 1), one draw in each of `count` equal bins, (count,)."""
    return (torch.arange(count) + torch.rand(count, generator=generator)) / max(count, 1)
