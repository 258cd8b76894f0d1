"""DDIM."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler, between
from samplers.checks import within


@dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM, from deterministic (eta 0) to DDPM (eta 1): first order, one call per step.

    In the paper's terms:
        x_{t−1} = √ᾱ_{t−1} x̂₀ + √(1 − ᾱ_{t−1} − σ_t²) ε̂ + σ_t z
        σ_t²    = η² (1 − ᾱ_{t−1})/(1 − ᾱ_t) (1 − ᾱ_t/ᾱ_{t−1})

    In the σ clock (each x divided by its √ᾱ, ᾱ = 1/(1 + σ²), ⁺ for t−1), with ε̂ = (x − x̂₀)/σ:
        x⁺ = x̂₀ + √(σ⁺² − η² v) ε̂ + η √v z,   v = σ⁺² (σ² − σ⁺²)/σ²

    `eta` scales the noise: 0 is Euler's method, 1 is DDPM. (Song, Meng, Ermon 2021, arXiv:2010.02502, eq. 12 and 16)

    Raises:
        ValueError: eta is not in [0, 1].
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        within("DDIM.eta", self.eta, 0, 1)

    @property
    def stochastic(self) -> bool:
        """True unless eta is 0."""
        return self.eta > 0

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        x0 = denoise(x, sigma)
        q = sigma_next / sigma
        fresh = self.eta**2 * (1 - q * q)  # η² v as a share of σ⁺², which rounding cannot lift above 1
        x = torch.lerp(x0, x, q * sqrt(1 - fresh))
        if sigma_next * fresh > 0:
            x.add_(between(noise, sigma, sigma_next, x), alpha=sigma_next * sqrt(fresh))
        return x, None
