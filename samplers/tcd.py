"""TCD, trajectory consistency sampling."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import floor, sqrt

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler, between
from samplers.checks import within
from samplers.clock import DEFAULT, clock
from samplers.levels import DiscreteLevels, Levels, TimedLevels


@dataclass(frozen=True)
class TCD(Sampler):
    """TCD's strategic stochastic sampling, for distilled networks: one call per step.

    With t⁺ the time of the next level, s = (1 − γ) t⁺, σ_s its level and ε̂ = (x − x̂₀)/σ:
        x⁺ = x̂₀ + σ_s ε̂ + √(σ⁺² − σ_s²) z

    `gamma` in [0, 1] is the share of the time that is denoised and noised again: 0 is DDIM, and 1 is nearly `lcm`,
    except that σ at t = 0 is not 0. Timesteps of a table are rounded down. `levels` is the model's noise schedule,
    Stable Diffusion v1's by default (`with_levels` sets it); without a time, t is σ. With γ above 0 `order` is 0,
    because more steps do not help a denoiser that is a posterior mean. (Zheng et al. 2024, arXiv:2402.19159, Algorithm
    2)

    Raises:
        ValueError: gamma is not in [0, 1].
    """

    gamma: float = 0.3
    levels: Levels = field(default=DEFAULT, repr=False)

    def __post_init__(self) -> None:
        within("TCD.gamma", self.gamma, 0, 1)

    @property
    def order(self) -> int:
        """1 without noise; 0, no claim, with noise."""
        return 0 if self.stochastic else 1

    @property
    def stochastic(self) -> bool:
        """True unless gamma is 0."""
        return self.gamma > 0

    def with_levels(self, levels: Levels) -> Sampler:
        """The same sampler in the time of this noise schedule."""
        return replace(self, levels=levels)

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        x0 = denoise(x, sigma)
        lower = self._denoised_to(sigma_next)
        x = torch.lerp(x0, x, lower / sigma)
        if lower < sigma_next:
            x.add_(between(noise, sigma, sigma_next, x), alpha=sqrt(sigma_next**2 - lower**2))
        return x, None

    def _denoised_to(self, sigma_next: float) -> float:
        """σ_s."""
        if sigma_next == 0 or self.gamma == 0:
            return sigma_next
        if not isinstance(self.levels, TimedLevels):
            return (1 - self.gamma) * sigma_next
        time = clock(self.levels)
        s = (1 - self.gamma) * time.t(sigma_next)
        if isinstance(self.levels, DiscreteLevels):
            s = floor(s + 1e-6)  # so that rounding cannot cost a timestep
        return min(time.sigma(s), sigma_next)
