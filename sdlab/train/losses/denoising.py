"""The denoising loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from sdlab.model.parametrisation import Parametrisation, Value
from sdlab.train.losses.weighting import Weighting


@dataclass(frozen=True)
class Denoising:
    """The mean squared error of a network's prediction, with an optional weighting.

    Latents x₀ and noise ε are (B, z, h, w). `sigma` is (B,), float64 on the CPU.
    """

    parametrisation: Parametrisation
    weighting: Weighting | None = None

    def input(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """The network's input c_in (x₀ + σ ε)."""
        scale = self.parametrisation.scale(sigma)
        return _rows(scale, x0) * x0 + _rows(scale * sigma, x0) * noise

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """What the network should predict."""
        a, b = self.parametrisation.target(sigma)
        return _rows(b, x0) * noise + _rows(a, x0) * x0

    def loss(self, predicted: Tensor, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """The mean of |F − F*|², or of w |x̂₀ − x₀|² with a weighting w. A scalar."""
        target = self.target(x0, noise, sigma)
        if self.weighting is None:
            return F.mse_loss(predicted, target)
        weight = self.weighting(sigma**-2) / self.parametrisation.error_ratio(sigma)
        return (weight.to(target) * (predicted - target).square().flatten(1).mean(1)).mean()

    def x0(self, predicted: Tensor, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """The estimate x̂₀ of the prediction."""
        level = _rows(sigma, x0)
        return self.parametrisation.denoised(x0 + level * noise, level, predicted)


def _rows(factor: Value, x: Tensor) -> Value:
    """A factor per image in the dtype and on the device of x (B, …), in a shape that broadcasts with it."""
    return factor.to(x).view(-1, *[1] * (x.dim() - 1)) if isinstance(factor, Tensor) else factor
