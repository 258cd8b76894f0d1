"""DPM-Solver++(3M) SDE."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, expm1, sqrt
from typing import Literal

import torch
from torch import Tensor

from samplers.adams import Node, adams_weights, along_predictions, difference_weights, log_nodes, log_ratio, phi
from samplers.base import Denoiser, Noise, between
from samplers.checks import one_of, within
from samplers.multistep import History, Multistep

VARIANTS = ("corrected", "published", "diffusers")


@dataclass(frozen=True)
class DPMpp3MSDE(Multistep):
    """DPM-Solver++(3M) SDE: second order in law, third without noise, one call per step.

    The reverse SDE with η times its noise is dx = (1+η)(D − x) dλ + √(2η) σ dB in λ = −log σ. Over a step of h, with
    H = (1+η) h, φ at −H, ⁺ for the next level, and D, D₁, D₂ the last predictions of x₀, made at θ = 0, −r₁, −r₂ in
    units of h:
        Δ₁ = [D − D₁]/r₁                        the first divided difference
        Δ₂ = (Δ₁ − [D₁ − D₂]/(r₂ − r₁))/r₂      the second
        x⁺ = e^{−H} x + H [φ₁ D + φ₂ (Δ₁ + r₁ Δ₂) + 2 φ₃ Δ₂] + σ⁺ √(1 − e^{−2ηh}) z

    This integrates the parabola through the three predictions exactly. Published code has other factors of Δ₂:
        corrected    2 H φ₃       as above
        published    H φ₃         k-diffusion and code derived from it; second order at any eta
        diffusers    H φ₃ − 1     diffusers' DPMSolverMultistepScheduler, where a sign is lost; no order

    The variant "diffusers" converges at first order where ∂D/∂x ≤ 1, as on a Gaussian, and is unstable elsewhere. For
    h → 0 an error δx grows by the roots of z² + p z/2 − p/2, where p is an eigenvalue of ∂D/∂x. One root is below −1
    if p > 1. Between the modes of a mixture more steps then make it worse.

    `eta` ≥ 0 scales the noise: 0 is DPM-Solver++(3M), 1 is the reverse SDE. The first steps use as many predictions as
    there are. The step to σ⁺ = 0 uses D alone. (Crowson 2023, k-diffusion; Lu et al. 2022, arXiv:2211.01095)

    With `lower_order_final`, in a run of fewer than 15 steps, the last step uses D alone on any grid, and the one
    before it D and D₁. This is the default of diffusers.

    Raises:
        ValueError: eta is negative or not finite, variant is unknown, or lower_order_final is not True or False.
    """

    eta: float = 1.0
    variant: Literal["corrected", "published", "diffusers"] = "corrected"

    def __post_init__(self) -> None:
        super().__post_init__()
        within("DPMpp3MSDE.eta", self.eta, 0)
        one_of("DPMpp3MSDE.variant", self.variant, VARIANTS)

    @property
    def order(self) -> int:
        """2 in law; 3 without noise; 0, no claim, for the variant "diffusers"."""
        if self.variant == "corrected" and self.eta == 0:
            return 3
        return 0 if self.variant == "diffusers" else 2

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
        memory: History | None,
        noise: Noise,
    ) -> tuple[Tensor, History]:
        """x at `sigma` -> x at `sigma_next`. Memory: the last predictions."""
        x0 = denoise(x, sigma)
        nodes, memory = (memory or History()).look_back(Node(sigma, x0), 3)
        if sigma_next == 0:
            return torch.lerp(x0, x, 0.0), memory
        h = log_ratio(sigma, sigma_next)
        weights = self._weights(log_nodes(nodes, h), (1 + self.eta) * h)
        x = along_predictions(x, sigma_next / sigma * exp(-self.eta * h), nodes, weights)
        if self.stochastic:
            x.add_(between(noise, sigma, sigma_next, x), alpha=sigma_next * sqrt(-expm1(-2 * self.eta * h)))
        return x, memory

    def _weights(self, nodes: tuple[float, ...], h: float) -> list[float]:
        weights = [h * weight for weight in adams_weights(nodes, -h)]
        if self.variant == "corrected" or len(nodes) < 3:
            return weights
        excess = h * phi(3, -h)[2] + (self.variant == "diffusers")
        return [weight - excess * part for weight, part in zip(weights, difference_weights(nodes), strict=True)]
