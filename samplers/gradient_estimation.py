"""Gradient estimation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from samplers.adams import Node, along_noise
from samplers.base import Denoiser, Noise, Sampler
from samplers.checks import within


@dataclass(frozen=True)
class GradientEstimation(Sampler):
    """Gradient estimation, Euler along an extrapolated noise: first order (second at γ = 3/2), one call per step.

    With ε = (x − x̂₀)/σ, ⁺ for the next level and ′ for the previous step:
        ε̄  = γ ε + (1 − γ) ε′
        x⁺ = x + (σ⁺ − σ) ε̄

    γ = 1 is Euler. γ = 3/2 is the Adams–Bashforth method for even steps, of second order where neighbouring steps have
    nearly equal lengths. The authors' γ = 2 is of first order and meant for few steps. The first step is an Euler step.
    σ⁺ = 0 needs no special case. (Permenter and Yuan 2024, arXiv:2306.04848)

    Raises:
        ValueError: gamma is not in [1, 3].
    """

    gamma: float = 2.0

    def __post_init__(self) -> None:
        within("GradientEstimation.gamma", self.gamma, 1, 3)

    @property
    def order(self) -> int:
        """2 for gamma = 1.5 (on a grid whose neighbouring steps have nearly equal lengths), else 1."""
        return 2 if self.gamma == 1.5 else 1

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Node | None, noise: Noise
    ) -> tuple[Tensor, Node]:
        """x at `sigma` -> x at `sigma_next`. Memory: the noise predicted at `sigma`."""
        x0 = denoise(x, sigma)
        node, step = Node(sigma, x - x0), sigma_next - sigma
        if memory is None:
            return along_noise(x, x0, (node,), (step,)), node
        return along_noise(x, x0, (node, memory), (step * self.gamma, step * (1 - self.gamma))), node
