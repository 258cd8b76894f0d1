"""Shared parts of the sampler tests: two exact problems, the deterministic samplers, a denoiser that counts calls."""

from __future__ import annotations

import torch
from torch import Tensor

import samplers
from samplers.exact.problems import Gaussian, GaussianMixture

SD = samplers.discrete_levels()
SPECTRUM = Gaussian(std=torch.tensor([0.2, 0.7, 1.9]), mean=torch.tensor([0.5, -1.0, 0.0]))
MIXTURE = GaussianMixture(
    means=torch.tensor([[-1.0, 0.4], [0.7, 1.2], [0.3, -1.1]], dtype=torch.float64),
    stds=torch.tensor([0.3, 0.5, 0.4]),
    weights=torch.tensor([0.5, 0.2, 0.3]),
)
PLAIN = [name for name in samplers.SAMPLERS if not name.endswith("_cfg_pp")]  # the others need a guided denoiser
DETERMINISTIC = [name for name in PLAIN if not samplers.make(name).stochastic]
STOCHASTIC = [name for name in samplers.SAMPLERS if samplers.make(name).stochastic]


class Counting:
    """A denoiser that counts its calls and keeps the levels it was asked at."""

    def __init__(self, denoise: samplers.Denoiser) -> None:
        self.denoise = denoise
        self.levels: list[float | Tensor] = []

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self.levels.append(sigma)
        return self.denoise(x, sigma)


def start(*shape: int, sigma: float, seed: int = 0) -> Tensor:
    """Float64 noise at level `sigma`."""
    return sigma * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
