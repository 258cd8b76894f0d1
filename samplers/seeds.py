"""SEEDS, exponential Runge–Kutta methods with noise in every stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import exp, expm1, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from samplers.adams import log_ratio, phi
from samplers.base import Denoiser, Noise, Sampler, between
from samplers.checks import within


@dataclass(frozen=True)
class SEEDS2(Sampler):
    """SEEDS-2: second order in law, two calls per step.

    The reverse SDE with η times its noise is dx = (1+η)(D − x) dλ + √(2η) σ dB in λ = −log σ. A step of h is cut into 2
    equal parts. With a = e^{−(1+η)h/2}, σ_i the level after i parts (σ_0 = σ, σ_2 = σ⁺) and D_i = D(x_i, σ_i) with x_0
    = x:
        n_i = a n_{i−1} + σ_i √(1 − e^{−2ηh/2}) z_i,   n_0 = 0
        x_1 = a x + (1 − a) D_0 + n_1
        x⁺  = a² x + (1 − a²) D_1 + n_2

    n_i is the noise of the first i parts, so the noise of a stage is a part of the noise of the step. `eta` ≥ 0 scales
    it: 0 is DPM-Solver++(2S), 1 is the reverse SDE. The step to σ⁺ = 0 is an Euler step and makes one call. (Gonzalez
    et al. 2023, arXiv:2305.14267)

    Raises:
        ValueError: eta is negative or not finite.
    """

    order: ClassVar[int] = 2
    eta: float = 1.0

    def __post_init__(self) -> None:
        within("SEEDS2.eta", self.eta, 0)

    @property
    def stochastic(self) -> bool:
        """True unless eta is 0."""
        return self.eta > 0

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            return torch.lerp(x0, x, 0.0), None
        middle = sqrt(sigma) * sqrt(sigma_next)
        a = exp(-(1 + self.eta) * log_ratio(sigma, sigma_next) / 2)
        stages = _noise(noise, (sigma, middle, sigma_next), self.eta, x)
        x_1 = torch.lerp(x0, x, a).add_(next(stages))
        return torch.lerp(denoise(x_1, middle), x, a * a).add_(next(stages)), None


@dataclass(frozen=True)
class SEEDS3(Sampler):
    """SEEDS-3: second order in law, third without noise, three calls per step.

    The reverse SDE with η times its noise is dx = (1+η)(D − x) dλ + √(2η) σ dB in λ = −log σ. A step of h is cut into 3
    equal parts. With a = e^{−(1+η)h/3}, σ_i the level after i parts (σ_0 = σ, σ_3 = σ⁺), H = (1+η) h, φ₂(z) = (e^z − 1
    − z)/z² and D_i = D(x_i, σ_i) with x_0 = x:
        n_i = a n_{i−1} + σ_i √(1 − e^{−2ηh/3}) z_i,   n_0 = 0
        x_1 = a x + (1 − a) D_0 + n_1
        x_2 = a² x + (1 − a²) D_0 + 2 (2H/3) φ₂(−2H/3) (D_1 − D_0) + n_2
        x⁺  = a³ x + (1 − a³) D_0 + (3/2) H φ₂(−H) (D_2 − D_0) + n_3

    n_i is the noise of the first i parts, so the noise of a stage is a part of the noise of the step. `eta` ≥ 0 scales
    it: 0 is DPM-Solver++(3S), of third order, and 1 is the reverse SDE. Third order in law would need more of the path
    than its increments. The step to σ⁺ = 0 is an Euler step and makes one call. (Gonzalez et al. 2023,
    arXiv:2305.14267)

    Raises:
        ValueError: eta is negative or not finite.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        within("SEEDS3.eta", self.eta, 0)

    @property
    def order(self) -> int:
        """2 in law; 3 without noise."""
        return 2 if self.stochastic else 3

    @property
    def stochastic(self) -> bool:
        """True unless eta is 0."""
        return self.eta > 0

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            return torch.lerp(x0, x, 0.0), None
        h = log_ratio(sigma, sigma_next)
        sigma_1, sigma_2 = sigma * exp(-h / 3), sigma * exp(-2 * h / 3)
        h_eta = (1 + self.eta) * h
        a, two_thirds = exp(-h_eta / 3), 2 * h_eta / 3
        stages = _noise(noise, (sigma, sigma_1, sigma_2, sigma_next), self.eta, x)
        x_1 = torch.lerp(x0, x, a).add_(next(stages))
        d_1 = denoise(x_1, sigma_1) - x0
        x_2 = torch.lerp(x0, x, a * a).add_(d_1, alpha=2 * two_thirds * phi(2, -two_thirds)[1]).add_(next(stages))
        d_2 = denoise(x_2, sigma_2) - x0
        out = torch.lerp(x0, x, a * a * a).add_(d_2, alpha=1.5 * h_eta * phi(2, -h_eta)[1])
        return out.add_(next(stages)), None


def _noise(noise: Noise, levels: tuple[float, ...], eta: float, like: Tensor) -> Iterator[Tensor | float]:
    """n_1, n_2, … at the levels of a step, which are evenly spaced in λ; zeros, without a draw, if η is 0."""
    part = log_ratio(levels[0], levels[-1]) / (len(levels) - 1)
    so_far: Tensor | float = 0.0
    for high, low in pairwise(levels):
        if eta > 0:
            fresh = between(noise, high, low, like) * (low * sqrt(-expm1(-2 * eta * part)))
            so_far = fresh + exp(-(1 + eta) * part) * so_far
        yield so_far
