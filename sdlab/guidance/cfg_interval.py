"""Classifier-free guidance in an interval of noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from torch import Tensor

from samplers.checks import within
from sdlab.denoiser import Model
from sdlab.guidance import blend


@dataclass(frozen=True)
class ClassifierFreeInterval:
    """Classifier-free guidance for sigma_low < σ ≤ sigma_high, the plain conditional model at other levels.

    Kynkäänniemi et al. 2024 (arXiv 2404.07724), section 3. `sigma_high` may be infinite; ValueError unless
    0 ≤ sigma_low < sigma_high and scale ≥ 0.
    """

    scale: float = 7.5
    sigma_low: float = 0.28
    sigma_high: float = 5.42

    def __post_init__(self) -> None:
        within("ClassifierFreeInterval.scale", self.scale, 0)
        within("ClassifierFreeInterval.sigma_low", self.sigma_low, 0)
        if self.sigma_high != inf:
            within("ClassifierFreeInterval.sigma_high", self.sigma_high, 0)
        if not self.sigma_low < self.sigma_high:
            low, high = self.sigma_low, self.sigma_high
            raise ValueError(f"ClassifierFreeInterval.sigma_high must lie above sigma_low = {low!r}, got {high!r}")

    def weight(self, sigma: float) -> float:
        """The scale inside the interval, 1 outside."""
        return self.scale if self.sigma_low < sigma <= self.sigma_high else 1.0

    def __call__(self, model: Model, cond: Tensor, uncond: Tensor) -> blend.Blend:
        """The guided denoiser; outside the interval it makes no second prediction."""
        return blend.Blend(model, cond, uncond, self.weight)

    def passes(self, sigma: float) -> int:
        """Two inside the interval (one if the scale is 0 or 1), one outside."""
        return blend.passes(self.weight(sigma))
