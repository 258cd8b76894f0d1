"""Closed-form problems: data distributions with known denoiser, marginals and probability flow.

In the σ clock x = x₀ + σ ε, so noise only widens each Gaussian: N(μ, s²) becomes N(μ, s² + σ²). By Tweedie's formula
D(x, σ) = x + σ² ∇ log p(x; σ). Samplers are tested on these problems. The derivations are original.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Sigma = float | Tensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """x₀ ~ N(mean, std²), with independent dimensions.

    `mean` and `std` ≥ 0 are floats, for x of any shape, or tensors in the shape of one image, for a diagonal
    covariance. A sigma is a float or a tensor of shape (B,).
    """

    std: float | Tensor = 1.0
    mean: float | Tensor = 0.0

    def denoise(self, x: Tensor, sigma: Sigma) -> Tensor:
        """E[x₀ | x] = (σ² mean + std² x)/(std² + σ²), for x of shape (B, …)."""
        mean, data = self._mean(x), self._variance(x)
        return mean + data / (data + _column(sigma, x) ** 2) * (x - mean)

    def score(self, x: Tensor, sigma: Sigma) -> Tensor:
        """∇ log p(x; σ), in the shape of x."""
        return (self._mean(x) - x) / (self._variance(x) + _column(sigma, x) ** 2)

    def marginal_mean(self, sigma: float) -> Tensor:
        """E[x] at level `sigma`, in the shape of one image, float64."""
        return torch.as_tensor(self.mean, dtype=torch.float64).expand(self._shape())

    def marginal_variance(self, sigma: float) -> Tensor:
        """Var[x] = std² + σ² per dimension, in the shape of one image, float64."""
        return (torch.as_tensor(self.std, dtype=torch.float64) ** 2 + sigma**2).expand(self._shape())

    def flow(self, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """The probability-flow ODE's solution at `sigma_next` (0 allowed), starting from x at `sigma`.

        x⁺ − mean = (x − mean) √((std² + σ⁺²)/(std² + σ²)).
        """
        mean, data = self._mean(x), self._variance(x)
        return mean + (x - mean) * torch.sqrt((data + sigma_next**2) / (data + sigma**2))

    def sample(self, n: int, generator: torch.Generator | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """`n` draws of x₀, (n, *image shape), on the CPU."""
        z = torch.randn((n, *self._shape()), generator=generator, dtype=dtype)
        return self._mean(z) + _like(self.std, z) * z

    def _shape(self) -> torch.Size:
        return (torch.as_tensor(self.mean) + torch.as_tensor(self.std)).shape

    def _mean(self, x: Tensor) -> Tensor:
        return _like(self.mean, x)

    def _variance(self, x: Tensor) -> Tensor:
        return _like(self.std, x) ** 2


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """x₀ ~ Σ_k w_k N(μ_k, s_k² I): K isotropic Gaussians; a finite data set if every s_k is 0.

    `means` has shape (K, *image shape); `stds` ≥ 0 is a float or of shape (K,); `weights` has shape (K,), equal by
    default, and is normalised here. At σ = 0 the stds must be above 0.

    Raises:
        ValueError: the shapes disagree.
    """

    means: Tensor
    stds: float | Tensor = 0.0
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.means)
        if isinstance(self.stds, Tensor) and self.stds.shape not in ((), (count,)):
            raise ValueError(f"stds must have shape ({count},), one per mean, got {tuple(self.stds.shape)}")
        if self.weights is not None and self.weights.shape != (count,):
            raise ValueError(f"weights must have shape ({count},), one per mean, got {tuple(self.weights.shape)}")

    def denoise(self, x: Tensor, sigma: Sigma) -> Tensor:
        """E[x₀ | x] = Σ_k r_k (σ² μ_k + s_k² x)/(s_k² + σ²), r_k = p(component k | x), for x of shape (B, …)."""
        rows, data = _rows(x), self._stds(x) ** 2
        noise = _column(sigma, rows) ** 2
        variance = data + noise
        share = self._shares(rows, variance)
        shrunk = (share * data / variance).sum(1, keepdim=True) * rows
        pulled = self._blended(share * noise / variance, x)
        return (shrunk + pulled).view_as(x)

    def score(self, x: Tensor, sigma: Sigma) -> Tensor:
        """∇ log p(x; σ) = Σ_k r_k (μ_k − x)/(s_k² + σ²), in the shape of x."""
        rows = _rows(x)
        variance = self._stds(x) ** 2 + _column(sigma, rows) ** 2
        pull = self._shares(rows, variance) / variance
        return (self._blended(pull, x) - pull.sum(1, keepdim=True) * rows).view_as(x)

    def responsibilities(self, x: Tensor, sigma: Sigma) -> Tensor:
        """p(component k | x) of shape (B, K), for x of shape (B, …) at level `sigma`."""
        rows = _rows(x)
        return self._shares(rows, self._stds(x) ** 2 + _column(sigma, rows) ** 2)

    def _shares(self, rows: Tensor, variance: Tensor) -> Tensor:
        """p(component k | x), (B, K), for x of shape (B, D) and the components' variances, (K,) or (B, K)."""
        # Not as a matrix product, whose cancellation error is large compared with σ² near the data.
        gap = torch.cdist(rows, self._means(rows), compute_mode="donot_use_mm_for_euclid_dist").square()  # (B, K)
        weights, dimensions = self._weights(rows), rows.shape[1]
        return torch.softmax(weights.log() - (gap / variance + dimensions * variance.log()) / 2, dim=1)

    def marginal_mean(self, sigma: float) -> Tensor:
        """E[x] at level `sigma`, in the shape of one image, float64."""
        means = self.means.double()
        return torch.tensordot(self._weights(means), means, 1)

    def marginal_variance(self, sigma: float) -> Tensor:
        """Var[x] per dimension at level `sigma`, in the shape of one image, float64: within plus between components."""
        means = self.means.double()
        weights = self._weights(means)
        within = weights @ (self._stds(means) ** 2 + sigma**2)
        return within + torch.tensordot(weights, (means - self.marginal_mean(sigma)) ** 2, 1)

    def flow(self, x: Tensor, sigma: float, sigma_next: float, rtol: float = 1e-12) -> Tensor:
        """The probability-flow ODE dx/dσ = −σ ∇ log p(x; σ) from x at `sigma`, solved to `sigma_next`.

        No closed form is known, so this is the Dormand–Prince method of order 8 (SciPy's DOP853) in float64 at relative
        tolerance `rtol`. `sigma_next` may be 0 if the stds are above 0. With stds of 0, the flow is followed to a level
        far below the distances between the means, where it points straight at the nearest mean.

        Raises:
            RuntimeError: the integration fails.
        """
        from scipy.integrate import solve_ivp  # slow to import

        exact = x.detach().to("cpu", torch.float64)
        bare = sigma_next == 0 and bool((self._stds(exact) == 0).any())
        last = min(sigma, self._resolved()) if bare else sigma_next

        def slope(level: float, flat: NDArray[np.float64]) -> NDArray[np.float64]:
            at = torch.from_numpy(flat).reshape(exact.shape)
            return (-level * self.score(at, level)).flatten().numpy()

        path = solve_ivp(slope, (sigma, last), exact.flatten().numpy(), method="DOP853", rtol=rtol, atol=rtol)
        if not path.success:
            raise RuntimeError(f"no reference flow from sigma {sigma} to {last}: {path.message}")
        end = torch.as_tensor(path.y[:, -1]).reshape(exact.shape)
        return (self.denoise(end, last) if bare else end).to(x)

    def _resolved(self) -> float:
        """A level at which x belongs to one mean. At a 20th of their distance, the next has a share of e^{−200}."""
        gaps = torch.pdist(_rows(self.means.double()))
        return float(gaps[gaps > 0].min()) / 20 if (gaps > 0).any() else 1.0

    def sample(self, n: int, generator: torch.Generator | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """`n` draws of x₀, (n, *image shape), on the CPU."""
        z = torch.randn((n, self.means[0].numel()), generator=generator, dtype=dtype)
        component = torch.multinomial(self._weights(z), n, replacement=True, generator=generator)
        x0 = self._means(z)[component] + self._stds(z)[component, None] * z
        return x0.reshape(n, *self.means.shape[1:])

    def _blended(self, weights: Tensor, x: Tensor) -> Tensor:
        """Σ_k w_k μ_k for weights (B, K), (B, D).

        One product per image. The rounding of a product over the batch depends on the size of the batch.
        """
        return torch.bmm(weights.unsqueeze(1), self._means(x).expand(len(weights), -1, -1)).squeeze(1)

    def _means(self, x: Tensor) -> Tensor:
        return _rows(self.means).to(x)

    def _stds(self, x: Tensor) -> Tensor:
        return _like(self.stds, x).expand(len(self.means))

    def _weights(self, x: Tensor) -> Tensor:
        weights = x.new_ones(len(self.means)) if self.weights is None else _like(self.weights, x)
        return weights / weights.sum()


def _column(sigma: Sigma, x: Tensor) -> Tensor:
    """`sigma` reshaped to broadcast against x: one value, or one per image."""
    level = _like(sigma, x)
    return level.reshape(-1, *[1] * (x.ndim - 1)) if level.ndim else level


def _rows(x: Tensor) -> Tensor:
    """(B, …) -> (B, D), a plain (B,) included."""
    return x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)


def _like(value: float | Tensor, x: Tensor) -> Tensor:
    """`value` as a tensor of x's dtype and device; a float keeps the full precision of that dtype."""
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)
