"""DPM-Solver++(3M) SDE (Crowson, k-diffusion, 2023, after Lu et al. 2022, arXiv:2211.01095).

The reverse SDE with η times its noise, dx = (1+η)(D − x) dλ + √(2η) σ dB, over a step of h in λ = −log σ. With
H = (1+η) h, the φ functions of samplers/adams.py at −H, ⁺ for the next level, and for the last predictions D, D₁, D₂ at
θ = 0, −r, −r−r′ in units of h:
    D′ = f[0, −r] + r D″         the slope at θ = 0
    D″ = f[0, −r, −r−r′]         the second divided difference, half of the second derivative
    x⁺ = e^{−H} x + H [φ₁ D + φ₂ D′ + 2 φ₃ D″] + σ⁺ √(1 − e^{−2ηh}) z

which integrates the parabola through the three exactly. What is published has other factors of D″:
    corrected    2 H φ₃       as above
    published    H φ₃         k-diffusion and what was made after it, also without noise (DPM-Solver++(3M))
    diffusers    H φ₃ − 1     diffusers' DPMSolverMultistepScheduler, where a sign is lost: first order

The first steps look back as far as there is something to see; the one to σ⁺ = 0 takes D alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, expm1, sqrt
from typing import Literal

import torch
from torch import Tensor

from samplers.adams import Node, adams_weights, along_data, difference_weights, log_nodes, log_ratio, phi
from samplers.base import Denoiser, Noise, Sampler, between
from samplers.checks import one_of, within

VARIANTS = ("corrected", "published", "diffusers")


@dataclass(frozen=True)
class DPMpp3MSDE(Sampler):
    """DPM-Solver++(3M) SDE: second order in law, third without noise, one call a step.

    `eta` ≥ 0 scales the noise: 0 is DPM-Solver++(3M), 1 the reverse SDE. For `variant` see above; with "published" the
    order is 2 at any eta, with "diffusers" 1. ValueError for another eta or variant.
    """

    eta: float = 1.0
    variant: Literal["corrected", "published", "diffusers"] = "corrected"

    def __post_init__(self) -> None:
        within("DPMpp3MSDE.eta", self.eta, 0)
        one_of("DPMpp3MSDE.variant", self.variant, VARIANTS)

    @property
    def order(self) -> int:
        """In law 2; 3 without noise; 1 of the variant "diffusers"."""
        if self.variant == "corrected" and self.eta == 0:
            return 3
        return 1 if self.variant == "diffusers" else 2

    @property
    def stochastic(self) -> bool:
        """True unless eta is 0."""
        return self.eta > 0

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        memory: tuple[Node, ...] | None,
        noise: Noise,
    ) -> tuple[Tensor, tuple[Node, ...]]:
        """x at `sigma` -> x at `sigma_next`; remembers the last predictions."""
        x0 = denoise(x, sigma)
        history = (Node(sigma, x0), *(memory or ()))[:3]
        if sigma_next == 0:
            return torch.lerp(x0, x, 0.0), history
        h = log_ratio(sigma, sigma_next)
        weights = self._weights(log_nodes(history, h), (1 + self.eta) * h)
        x = along_data(x, sigma_next / sigma * exp(-self.eta * h), history, weights)
        if self.stochastic:
            x.add_(between(noise, sigma, sigma_next, x), alpha=sigma_next * sqrt(-expm1(-2 * self.eta * h)))
        return x, history

    def _weights(self, nodes: tuple[float, ...], h: float) -> list[float]:
        weights = [h * weight for weight in adams_weights(nodes, -h)]
        if self.variant == "corrected" or len(nodes) < 3:
            return weights
        excess = h * phi(3, -h)[2] + (self.variant == "diffusers")
        return [weight - excess * part for weight, part in zip(weights, difference_weights(nodes), strict=True)]
