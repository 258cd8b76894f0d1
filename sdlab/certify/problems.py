"""Certification problems and their exact solutions.

Order is measured from σ = 10 down to 0.02 on a grid even in log σ, without a step to 0. Accuracy at a number of network
passes is measured as in practice, on the Karras grid of Stable Diffusion's range, down to 0.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

import samplers
from samplers.exact import Gaussian, GaussianMixture

TOP, LOW = 10.0, 0.02
STOPS = 16  # levels at which paths are compared, in every order grid whose step count is a multiple of 16
_STARTS = 32  # in the steep problem, only some pass between the modes

GAUSSIAN = Gaussian(
    std=torch.tensor([0.2, 0.7, 1.9], dtype=torch.float64), mean=torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64)
)
MIXTURE = GaussianMixture(
    means=torch.tensor([[-1.0, 0.4], [0.7, 1.2], [0.3, -1.1]], dtype=torch.float64),
    stds=torch.tensor([0.3, 0.5, 0.4], dtype=torch.float64),
    weights=torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64),
)
# Narrow modes: between them the derivative of the denoiser exceeds 1, as it never does on a Gaussian.
STEEP = GaussianMixture(
    means=torch.tensor(
        [[1.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, 1.2, 0.0, 0.0], [0.0, 0.0, -1.1, 0.4]], dtype=torch.float64
    ),
    stds=0.1,
)
FLOWS: dict[str, Gaussian | GaussianMixture] = {"gaussian": GAUSSIAN, "mixture": MIXTURE, "steep": STEEP}

# A one-dimensional mixture, whose laws are compared by quantiles.
_MEANS, _STDS, _WEIGHTS = (-1.2, 0.1, 1.0), (0.2, 0.3, 0.15), (0.5, 0.2, 0.3)
LINE = GaussianMixture(*(torch.tensor(values, dtype=torch.float64) for values in (_MEANS, _STDS, _WEIGHTS)))


def order_grid(steps: int) -> tuple[float, ...]:
    """Even in log σ from 10 to 0.02."""
    levels = samplers.continuous_levels(LOW, TOP)
    return samplers.grid("exponential", steps=steps, levels=levels, ending="stop_at_sigma_min")


def use_grid(steps: int) -> tuple[float, ...]:
    """The Karras grid from 14.6 to 0."""
    return samplers.grid("karras", steps=steps, levels=samplers.discrete_levels())


@cache
def exact_path(problem: str) -> list[Tensor]:
    """States at σ = 10 and the exact flow from them at the `STOPS` levels below, each of shape (32, D)."""
    law = FLOWS[problem]
    noise = torch.Generator().manual_seed(0)
    path = [TOP * torch.randn((_STARTS, law.marginal_mean(TOP).numel()), generator=noise, dtype=torch.float64)]
    for sigma, sigma_next in pairwise(order_grid(STOPS)):
        path.append(law.flow(path[-1], sigma, sigma_next))
    return path


@cache
def line_quantiles(sigma: float, count: int) -> Tensor:
    """The quantiles (i + ½)/count of `LINE` at level `sigma`."""
    stds = np.hypot(_STDS, sigma)
    x = np.sort((np.array(_MEANS) + stds * np.linspace(-7, 7, 4001)[:, None]).ravel())
    below = ndtr((x[:, None] - np.array(_MEANS)) / stds) @ np.array(_WEIGHTS)
    return torch.from_numpy(np.interp((np.arange(count) + 0.5) / count, below, x))
