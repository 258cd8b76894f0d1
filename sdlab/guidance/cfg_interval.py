"""Classifier-free guidance in an interval of noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from samplers.checks import within
from sdlab.guidance.affine import Affine
from sdlab.guidance.scale import check_scale


@dataclass(frozen=True)
class ClassifierFreeInterval(Affine):
    """Classifier-free guidance for sigma_low < σ ≤ sigma_high, and the plain conditional model at other levels.

    σ is the level of each denoiser call, not the level at which its step begins. `sigma_high` may be infinite
    (Kynkäänniemi et al. 2024, arXiv:2404.07724, sec. 3).

    Raises:
        ValueError: `scale` is below 0 or above 1000, `sigma_low` is below 0, or `sigma_high` is not above it.
    """

    scale: float = 7.5
    sigma_low: float = 0.28
    sigma_high: float = 5.42

    def __post_init__(self) -> None:
        check_scale("ClassifierFreeInterval.scale", self.scale)
        within("ClassifierFreeInterval.sigma_low", self.sigma_low, 0)
        if self.sigma_high != inf:
            within("ClassifierFreeInterval.sigma_high", self.sigma_high, 0)
        if not self.sigma_low < self.sigma_high:
            low, high = self.sigma_low, self.sigma_high
            raise ValueError(f"ClassifierFreeInterval.sigma_high must be above sigma_low = {low!r}, got {high!r}")

    @property
    def limits(self) -> tuple[float, float]:
        """The interval."""
        return self.sigma_low, self.sigma_high

    def acts(self, sigma: float) -> bool:
        """Whether σ is inside."""
        return self.sigma_low < sigma <= self.sigma_high

    def weight(self, sigma: float) -> float:
        """The scale inside the interval, 1 outside."""
        return self.scale if self.acts(sigma) else 1.0
