"""More closed-form problems: any covariance, classes, and a finite set of images.

The derivations are original.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.exact.problems import Gaussian, GaussianMixture, Sigma

NO_CLASS = -1  # the label for the mixture of all classes


@dataclass(frozen=True, eq=False)
class RotatedGaussian:
    """x₀ ~ N(mean, C) for any covariance C = U diag(s²) Uᵀ: the Gaussian `inner` of its principal axes U, (D, D).

    The dimensions along the axes are independent, also for a sampler that is linear in x and D. The law of its samples
    for `inner` (samplers/exact/law.py) therefore applies here too. x has shape (B, D).
    """

    axes: Tensor
    inner: Gaussian

    @classmethod
    def of_covariance(cls, covariance: Tensor, mean: Tensor | None = None) -> RotatedGaussian:
        """From a covariance (D, D) and a mean (D,), 0 by default.

        Raises:
            ValueError: the covariance is not symmetric, or has a negative eigenvalue.
        """
        c = covariance.double()
        if c.ndim != 2 or c.shape[0] != c.shape[1] or not torch.allclose(c, c.T):
            raise ValueError(f"a covariance must be a symmetric matrix, got shape {tuple(covariance.shape)}")
        variances, axes = torch.linalg.eigh(c)
        if variances[0] < -1e-12 * variances[-1]:
            raise ValueError(f"a covariance must not have a negative eigenvalue, got {variances[0].item():.4g}")
        center = torch.zeros(len(c), dtype=c.dtype) if mean is None else mean.double()
        return cls(axes, Gaussian(variances.clamp(min=0).sqrt(), center @ axes))

    def denoise(self, x: Tensor, sigma: Sigma) -> Tensor:
        """E[x₀ | x], for x of shape (B, D)."""
        return self._turned(x, self.inner.denoise(self._along(x), sigma))

    def score(self, x: Tensor, sigma: Sigma) -> Tensor:
        """∇ log p(x; σ), in the shape of x."""
        return self._turned(x, self.inner.score(self._along(x), sigma))

    def flow(self, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """The probability-flow ODE's solution at `sigma_next` (0 allowed), starting from x at `sigma`."""
        return self._turned(x, self.inner.flow(self._along(x), sigma, sigma_next))

    def marginal_mean(self, sigma: float) -> Tensor:
        """E[x] at level `sigma`, (D,), float64."""
        return self.inner.marginal_mean(sigma) @ self.axes.double().T

    def marginal_covariance(self, sigma: float) -> Tensor:
        """Cov[x] = C + σ² I, (D, D), float64."""
        axes = self.axes.double()
        return (axes * self.inner.marginal_variance(sigma)) @ axes.T

    def marginal_variance(self, sigma: float) -> Tensor:
        """The variance of every dimension, (D,), float64."""
        return self.marginal_covariance(sigma).diagonal()

    def sample(self, n: int, generator: torch.Generator | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """`n` draws of x₀, (n, D), on the CPU."""
        along = self.inner.sample(n, generator, dtype)
        return self._turned(along, along)

    def _along(self, x: Tensor) -> Tensor:
        return x @ self.axes.to(x)

    def _turned(self, x: Tensor, along: Tensor) -> Tensor:
        return along @ self.axes.to(x).T


@dataclass(frozen=True, eq=False)
class ClassMixture:
    """x₀ ~ p(x₀ | c) for a class c: a Gaussian mixture whose component k belongs to the class `labels[k]` ≥ 0.

    p(c) is the total weight of the components of c.

    Raises:
        ValueError: there is not one label per component, or one is negative.
    """

    mixture: GaussianMixture
    labels: Sequence[int]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.mixture.means):
            raise ValueError(f"there must be one label per component, got {len(self.labels)}")
        if min(self.labels) < 0:
            raise ValueError(f"labels must be integers of at least 0, got {min(self.labels)}")

    def given(self, label: int) -> GaussianMixture:
        """The data distribution of one class, or of all classes for `NO_CLASS`.

        Raises:
            ValueError: there is no such class.
        """
        if label == NO_CLASS:
            return self.mixture
        mine = [k for k, own in enumerate(self.labels) if own == label]
        if not mine:
            raise ValueError(f"there is no class {label}; classes: {', '.join(map(str, sorted(set(self.labels))))}")
        whole = self.mixture
        stds = whole.stds[mine] if isinstance(whole.stds, Tensor) and whole.stds.ndim else whole.stds
        return GaussianMixture(whole.means[mine], stds, None if whole.weights is None else whole.weights[mine])

    def __call__(self, x: Tensor, sigma: Sigma, context: Tensor) -> Tensor:
        """E[x₀ | x, c] for x (B, …); `context` holds the class of each image, or `NO_CLASS`, first in its row."""
        classes = context.reshape(len(x), -1)[:, 0].long()
        out = torch.empty_like(x)
        for label in classes.unique().tolist():
            rows = classes == label
            level = sigma[rows] if isinstance(sigma, Tensor) and sigma.ndim else sigma
            out[rows] = self.given(label).denoise(x[rows], level)
        return out

    def denoise(self, x: Tensor, sigma: Sigma) -> Tensor:
        """E[x₀ | x], over all classes."""
        return self.mixture.denoise(x, sigma)

    def class_given(self, x: Tensor, sigma: Sigma) -> Tensor:
        """p(c | x) of shape (B, C), for the classes in increasing order."""
        share = self.mixture.responsibilities(x, sigma)
        own = torch.tensor(list(self.labels), device=share.device)
        return torch.stack([share[:, own == label].sum(1) for label in sorted(set(self.labels))], dim=1)


def data_set(images: Tensor) -> GaussianMixture:
    """x₀ is one of `images`, (K, *image shape), all equally likely, as for a network that memorises its training set.

    The denoiser is their mean weighted by exp(−|x − image|²/2σ²), the optimum on that training set. The flow ends at
    one of the images.  (Karras et al. 2022, arXiv:2206.00364, appendix B.3)
    """
    return GaussianMixture(images, 0.0)
