"""Linear multistep, the Adams–Bashforth method in σ."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from samplers.adams import Node, along_noise, sigma_weights
from samplers.base import Denoiser, Noise, Sampler
from samplers.checks import one_of


@dataclass(frozen=True)
class LMS(Sampler):
    """Adams–Bashforth in σ: up to fourth order by looking back, one call per step.

    With ε_j the noise predicted at the last levels σ_j, ℓ_j their Lagrange polynomials and ⁺ for the next level:
        x⁺ = x + Σ_j ε_j ∫_σ^{σ⁺} ℓ_j(s) ds

    The integrals are exact (Crowson 2022, k-diffusion, uses quadrature with tolerance 10⁻⁴). `max_order` is the number
    of predictions a step uses, including the current one. The first steps look back as far as they can, so the first is
    an Euler step. σ⁺ = 0 needs no special case. (Zhang and Chen 2023, arXiv:2204.13902, ρAB-DEIS)

    Raises:
        ValueError: max_order is not 1, 2, 3 or 4.
    """

    max_order: int = 4

    def __post_init__(self) -> None:
        one_of("LMS.max_order", self.max_order, (1, 2, 3, 4))

    @property
    def order(self) -> int:
        """`max_order`."""
        return self.max_order

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        memory: tuple[Node, ...] | None,
        noise: Noise,
    ) -> tuple[Tensor, tuple[Node, ...]]:
        """x at `sigma` -> x at `sigma_next`. Memory: the noise predicted at the last levels."""
        x0 = denoise(x, sigma)
        history = (Node(sigma, x - x0), *(memory or ()))[: self.max_order]
        return along_noise(x, x0, history, sigma_weights(history, sigma_next)), history
