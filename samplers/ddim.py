"""DDIM."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler, between
from samplers.checks import flag, limit, whole, within
from samplers.denoiser import begin_step


@dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM, from deterministic (eta 0) to DDPM (eta 1): first order, one call per step.

    In the paper's terms:
        x_{t−1} = √ᾱ_{t−1} x̂₀ + √(1 − ᾱ_{t−1} − σ_t²) ε̂ + σ_t z
        σ_t²    = η² (1 − ᾱ_{t−1})/(1 − ᾱ_t) (1 − ᾱ_t/ᾱ_{t−1})

    In the σ clock (each x divided by its √ᾱ, ᾱ = 1/(1 + σ²), ⁺ for t−1), with ε̂ = (x − x̂₀)/σ:
        x⁺ = x̂₀ + √(σ⁺² − η² v) ε̂ + η √v z,   v = σ⁺² (σ² − σ⁺²)/σ²

    `eta` scales the noise: 0 is Euler's method, 1 is DDPM.

    `clip` clamps x̂₀ to [−clip, clip], for models of pixels. Published code differs in the ε̂ that goes with it. With
    `clip_noise` it is that of the clamped x̂₀, as in guided-diffusion. Then x = x̂₀ + σ ε̂ still holds, and `eta` 1 is
    DDPM with the same `clip`. Without, it is that of the x̂₀ before, as in diffusers (`clip_sample`). With `clip` no
    order is claimed: a denoiser that leaves the range converges to another flow.

    `refinements` are those of its inversion (`samplers.invert`), which exists for `eta` 0 without `clip`. They change
    no sample. (Song, Meng, Ermon 2021, arXiv:2010.02502, eq. 12 and 16)

    Raises:
        ValueError: eta is not in [0, 1], clip is not above 0, clip_noise is not True or False, or refinements is not a
            whole number of 0 or more.
    """

    eta: float = 0.0
    clip: float = inf
    clip_noise: bool = True
    refinements: int = 0

    def __post_init__(self) -> None:
        within("DDIM.eta", self.eta, 0, 1)
        limit("DDIM.clip", self.clip)
        flag("DDIM.clip_noise", self.clip_noise)
        whole("DDIM.refinements", self.refinements, 0)

    @property
    def order(self) -> int:
        """1; 0, no claim, with `clip`."""
        return 1 if self.clip == inf else 0

    @property
    def stochastic(self) -> bool:
        """True unless eta is 0."""
        return self.eta > 0

    @property
    def invertible(self) -> bool:
        """True for `eta` 0 without `clip`."""
        return self.eta == 0 and self.clip == inf

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        x0 = denoise(x, sigma)
        q = sigma_next / sigma
        fresh = self.eta**2 * (1 - q * q)  # η² v as a share of σ⁺², which rounding cannot lift above 1
        kept = q * sqrt(1 - fresh)
        clean = x0.clamp(-self.clip, self.clip)
        x = torch.lerp(clean, x, kept)
        if not self.clip_noise:
            x.add_(clean - x0, alpha=kept)
        if sigma_next * fresh > 0:
            x.add_(between(noise, sigma, sigma_next, x), alpha=sigma_next * sqrt(fresh))
        return x, None

    def step_up(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next` above it, the inverse of the step that ends at `sigma`, approximately.

        The exact inverse solves x⁺ = x + (σ⁺ − σ) ε̂(x⁺, σ⁺). DDIM inversion takes ε̂(x, σ) in the place of ε̂(x⁺, σ⁺):
        Euler's method upwards, whose error falls at first order (section 4.3). Each of the `refinements` puts the x⁺
        found so far into the right side, for one more call. Its error shrinks by (σ⁺ − σ) |∂ε̂/∂x| each time, so x⁺
        converges to the exact inverse where that is below 1. It is on Gaussian data. Long steps, large guidance scales
        and places between modes can exceed it.
        """
        begin_step(denoise, sigma_next)
        start, at = x, sigma
        for _ in range(1 + self.refinements):
            x = torch.add(start, x - denoise(x, at), alpha=(sigma_next - sigma) / at)
            at = sigma_next
        return x, None
