"""The flow of a weighted sum of Gaussian denoisers, such as classifier-free guidance between a class and all data.

With D_k the denoiser of N(μ_k, s_k²) and weights that sum to 1, Σ w_k D_k is affine in x. Its flow is linear:
    dx/dσ = (x − Σ w_k D_k)/σ = σ Σ w_k (x − μ_k)/(s_k² + σ²)

A Gaussian start therefore stays Gaussian, whatever the weights. With g(σ) = Π (s_k² + σ²)^{w_k/2}:
    standard deviation   s⁺ = s g⁺/g
    mean                 m⁺ = m g⁺/g + g⁺ ∫ σ/g Σ w_k μ_k/(s_k² + σ²) dσ   from σ⁺ to σ

The integral is an incomplete beta function if there are two Gaussians. Here it is a quadrature, exact to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from samplers.exact.problems import Gaussian

_NODES = 24  # of Gauss–Legendre quadrature per panel
_PANEL = 0.5  # at most, in asinh(σ/s), where the nearest singularity is π/2 away


@dataclass(frozen=True, eq=False)
class GuidedGaussian:
    """Σ w_k D_k for Gaussians that all have the shape of x, (D,), and weights that sum to 1.

    Raises:
        ValueError: there is not one weight per Gaussian, the weights do not sum to 1, or a std is not above 0.
    """

    laws: tuple[Gaussian, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.laws) != len(self.weights):
            raise ValueError(f"there must be one weight per Gaussian, got {len(self.weights)} for {len(self.laws)}")
        if abs(sum(self.weights) - 1) > 1e-9:
            raise ValueError(f"the weights must sum to 1, got {sum(self.weights)!r}")
        if not bool((self._variances > 0).all()):
            raise ValueError("each std must be above 0")

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """Σ w_k D_k(x, σ) for x (B, D)."""
        parts = [weight * law.denoise(x, sigma) for law, weight in zip(self.laws, self.weights, strict=True)]
        return torch.stack(parts).sum(0)

    def flow(self, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """The state that the flow reaches at `sigma_next` (0 allowed) from x (B, D) at `sigma`, in the dtype of x.

        Of the mean this is the mean, and of two starts one standard deviation apart the distance is the new one.
        """
        grown = (self._log_growth(sigma_next) - self._log_growth(sigma)).exp()
        return (x * grown + self._pulled(sigma, sigma_next)).to(x.dtype)

    def _log_growth(self, sigma: float) -> Tensor:
        """log g(σ), (D,)."""
        return (self._weights * (self._variances + sigma**2).log()).sum(0) / 2

    def _pulled(self, sigma: float, sigma_next: float) -> Tensor:
        """g⁺ times the integral, (D,), by panels in u with σ = s sinh u, where s is the smallest std."""
        unit = float(self._variances.min().sqrt())
        low, high = np.arcsinh([sigma_next / unit, sigma / unit])
        edges = np.linspace(low, high, 2 + int((high - low) / _PANEL))
        nodes, sizes = np.polynomial.legendre.leggauss(_NODES)
        half = (edges[1:] - edges[:-1])[:, None] / 2
        u = (half * nodes + (edges[1:] + edges[:-1])[:, None] / 2).ravel()
        total = torch.zeros_like(self._variances[0])
        for at, size in zip(u, (half * sizes).ravel(), strict=True):
            level = unit * float(np.sinh(at))
            pull = (self._weights * self._means / (self._variances + level**2)).sum(0)
            grown = (self._log_growth(sigma_next) - self._log_growth(level)).exp()
            total += size * unit * float(np.cosh(at)) * level * pull * grown
        return total

    @property
    def _weights(self) -> Tensor:
        return torch.tensor(self.weights, dtype=torch.float64)[:, None]

    @property
    def _means(self) -> Tensor:
        return torch.stack([law.marginal_mean(0.0) for law in self.laws])

    @property
    def _variances(self) -> Tensor:
        return torch.stack([law.marginal_variance(0.0) for law in self.laws])
