"""Heun++2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler


class Ahead(NamedTuple):
    """The first level of the grid, and the levels below the current one."""

    top: float
    below: tuple[float, ...]


@dataclass(frozen=True)
class HeunPP2(Sampler):
    """Heun++2, slopes one and two levels ahead: first order, three calls per step.

    With d_i = (x_i − D(x_i, σ_i))/σ_i, levels numbered from the start of the step and σ_top the first level of the
    grid:
        x_1 = x + (σ_1 − σ) d
        x_2 = x_1 + (σ_2 − σ_1) d_1
        w_1 = σ_1/(3 σ_top),  w_2 = σ_2/(3 σ_top)
        x⁺  = x + (σ_1 − σ) [(1 − w_1 − w_2) d + w_1 d_1 + w_2 d_2]

    The last step but one uses one level ahead, with w_1 = σ_1/(2 σ_top), and makes two calls. The last is an Euler
    step.

    Second order needs w_1 (σ_1 − σ) + w_2 (σ_2 − σ) = ½ (σ_1 − σ). On even steps that is w_1 + 2 w_2 = ½, which holds
    only near σ = σ_top/2. The sampler therefore has Euler's order at up to three times the cost. There is no paper to
    check it against. (Carzit 2023, sd-webui-samplers-scheduler)
    """

    def prepare(self, sigmas: tuple[float, ...]) -> Ahead:
        """The levels of the whole grid."""
        return Ahead(sigmas[0], sigmas[1:])

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Ahead, noise: Noise
    ) -> tuple[Tensor, Ahead]:
        """x at `sigma` -> x at `sigma_next`. Memory: the remaining levels."""
        top, below = memory
        looks = min(3, len(below))
        level, at, x0 = sigma, x, denoise(x, sigma)
        slopes = [(x - x0) / sigma]
        weights = [1.0]
        for ahead in below[: looks - 1]:
            at = torch.lerp(x0, at, ahead / level)
            level, x0 = ahead, denoise(at, ahead)
            slopes.append((at - x0) / level)
            weights.append(level / (looks * top))
        if looks == 1:
            return torch.lerp(x0, x, sigma_next / sigma), Ahead(top, below[1:])
        weights[0] -= sum(weights[1:])
        out = x
        for slope, weight in zip(slopes, weights, strict=True):
            out = torch.add(out, slope, alpha=(sigma_next - sigma) * weight)
        return out, Ahead(top, below[1:])
