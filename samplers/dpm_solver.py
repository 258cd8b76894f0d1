"""The multistep DPM-Solvers: DPM-Solver on ε, DPM-Solver++ on x̂₀.

The φ functions, as in samplers/adams.py: φ₁(z) = (e^z − 1)/z and φ_{k+1}(z) = (φ_k(z) − 1/k!)/z.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1
from typing import ClassVar, Literal

import torch
from torch import Tensor

from samplers.adams import (
    Node,
    adams_weights,
    along_noise,
    along_predictions,
    difference_weights,
    log_nodes,
    log_ratio,
    phi,
)
from samplers.base import Denoiser, Noise
from samplers.checks import one_of
from samplers.multistep import History, Multistep

Variant = Literal["corrected", "published"]
VARIANTS = ("corrected", "published")


@dataclass(frozen=True)
class DPMpp2M(Multistep):
    """DPM-Solver++(2M): second order by looking one step back, one call per step.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level and ′ for the previous step:
        x⁺ = (σ⁺/σ) x + (1 − σ⁺/σ) [D + (h/2h′)(D − D′)]

    D is the prediction of x₀ at σ. The first step and the step to σ⁺ = 0 are Euler steps. (Lu et al. 2022,
    arXiv:2211.01095, Algorithm 2)

    With `lower_order_final` the last step of a run of fewer than 15 steps is an Euler step on any grid.

    Raises:
        ValueError: lower_order_final is not True or False.
    """

    order: ClassVar[int] = 2

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: History | None, noise: Noise
    ) -> tuple[Tensor, History]:
        """x at `sigma` -> x at `sigma_next`. Memory: the prediction at `sigma`."""
        d = x0 = denoise(x, sigma)
        nodes, memory = (memory or History()).look_back(Node(sigma, x0), 2)
        if len(nodes) == 2 and sigma_next > 0:
            h, h_last = log_ratio(sigma, sigma_next), log_ratio(nodes[1].sigma, sigma)
            d = torch.lerp(nodes[1].value, x0, 1 + h / (2 * h_last))
        return torch.lerp(d, x, sigma_next / sigma), memory


@dataclass(frozen=True)
class DPMpp3M(Multistep):
    """DPM-Solver++(3M): third order by looking two steps back, one call per step.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level, D, D₁, D₂ the last predictions of x₀, made at θ = 0, −r₁, −r₂ in
    units of h, and φ at −h:
        Δ₁ = [D − D₁]/r₁                        the first divided difference
        Δ₂ = (Δ₁ − [D₁ − D₂]/(r₂ − r₁))/r₂      the second
        x⁺ = (σ⁺/σ) x + h [φ₁ D + φ₂ (Δ₁ + r₁ Δ₂) + 2 φ₃ Δ₂]

    This integrates the parabola through the three predictions exactly. The authors' code, and code derived from it, has
    φ₃ Δ₂ in place of 2 φ₃ Δ₂. That is `variant` "published", of second order. "corrected" is of third order. The first
    steps use as many predictions as there are. The step to σ⁺ = 0 is an Euler step. (Lu et al. 2022, arXiv:2211.01095)

    With `lower_order_final`, in a run of fewer than 15 steps, the last step is an Euler step on any grid, and the one
    before it drops Δ₂. This is the default of diffusers.

    Raises:
        ValueError: variant is not "corrected" or "published", or lower_order_final is not True or False.
    """

    variant: Variant = "corrected"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("DPMpp3M.variant", self.variant, VARIANTS)

    @property
    def order(self) -> int:
        """3; 2 for the published variant."""
        return 3 if self.variant == "corrected" else 2

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
        if sigma_next == 0 or len(nodes) == 1:
            return torch.lerp(x0, x, sigma_next / sigma), memory
        h = log_ratio(sigma, sigma_next)
        weights = [h * weight for weight in _weights(log_nodes(nodes, h), -h, self.variant)]
        return along_predictions(x, sigma_next / sigma, nodes, weights), memory


@dataclass(frozen=True)
class DPMSolver2M(Multistep):
    """DPM-Solver-2M, the multistep form on ε: second order by looking one step back, one call per step.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level and ′ for the previous step:
        x⁺ = x − σ⁺ (e^h − 1) [ε + (h/2h′)(ε − ε′)]

    The first step and the step to σ⁺ = 0 are Euler steps. (Lu et al. 2022, arXiv:2206.00927, in multistep form)

    With `lower_order_final` the last step of a run of fewer than 15 steps is an Euler step on any grid.

    Raises:
        ValueError: lower_order_final is not True or False.
    """

    order: ClassVar[int] = 2

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        memory: History | None,
        noise: Noise,
    ) -> tuple[Tensor, History]:
        """x at `sigma` -> x at `sigma_next`. Memory: the last predictions of the noise."""
        return _noise_step(denoise, x, sigma, sigma_next, memory, 2, "corrected")


@dataclass(frozen=True)
class DPMSolver3M(Multistep):
    """DPM-Solver-3M, the multistep form on ε: third order by looking two steps back, one call per step.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level, ε, ε₁, ε₂ the last predictions of the noise, made at θ = 0, −r₁,
    −r₂ in units of h, and φ at h:
        Δ₁ = [ε − ε₁]/r₁                        the first divided difference
        Δ₂ = (Δ₁ − [ε₁ − ε₂]/(r₂ − r₁))/r₂      the second
        x⁺ = x − σ⁺ h [φ₁ ε + φ₂ (Δ₁ + r₁ Δ₂) + 2 φ₃ Δ₂]

    This integrates the parabola through the three predictions exactly. The authors' code has φ₃ Δ₂ in place of 2 φ₃ Δ₂.
    That is `variant` "published", of second order. "corrected" is of third order. The first steps use as many
    predictions as there are. The step to σ⁺ = 0 is an Euler step. (Lu et al. 2022, arXiv:2206.00927, in multistep form)

    With `lower_order_final`, in a run of fewer than 15 steps, the last step is an Euler step on any grid, and the one
    before it drops Δ₂. This is the default of diffusers.

    Raises:
        ValueError: variant is not "corrected" or "published", or lower_order_final is not True or False.
    """

    variant: Variant = "corrected"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("DPMSolver3M.variant", self.variant, VARIANTS)

    @property
    def order(self) -> int:
        """3; 2 for the published variant."""
        return 3 if self.variant == "corrected" else 2

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        memory: History | None,
        noise: Noise,
    ) -> tuple[Tensor, History]:
        """x at `sigma` -> x at `sigma_next`. Memory: the last predictions of the noise."""
        return _noise_step(denoise, x, sigma, sigma_next, memory, 3, self.variant)


def _noise_step(
    denoise: Denoiser,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    memory: History | None,
    look: int,
    variant: str,
) -> tuple[Tensor, History]:
    """A step on ε with up to `look` predictions."""
    x0 = denoise(x, sigma)
    nodes, memory = (memory or History()).look_back(Node(sigma, x - x0), look)
    if sigma_next == 0 or len(nodes) == 1:
        return torch.lerp(x0, x, sigma_next / sigma), memory
    h = log_ratio(sigma, sigma_next)
    weights = [-sigma_next * h * weight for weight in _weights(log_nodes(nodes, h), h, variant)]
    return along_noise(x, x0, nodes, weights), memory


def _weights(nodes: tuple[float, ...], z: float, variant: str) -> tuple[float, ...]:
    """The weight of each prediction in the mean over a step, for two or three nodes."""
    if len(nodes) == 2:
        half = expm1(z) / z / (2 * nodes[1])
        return expm1(z) / z - half, half
    exact = adams_weights(nodes, z)
    if variant == "corrected":
        return exact
    missing = phi(3, z)[2]
    return tuple(weight - missing * c for weight, c in zip(exact, difference_weights(nodes), strict=True))
