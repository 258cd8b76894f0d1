"""SiT's SDE sampler, the Euler–Maruyama method in the time of a flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, sin, sqrt
from typing import Literal

import torch
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler, between
from samplers.checks import one_of, within

# w(t)/2, in the time of a flow, 0 at the data.
DIFFUSIONS: dict[str, Callable[[float, float], float]] = {
    "constant": lambda t, norm: norm,
    "decreasing": lambda t, norm: 0.25 * (1 - norm * cos(pi * t)) ** 2,
    "increasing_decreasing": lambda t, norm: norm * sin(pi * t) ** 2,
    "sbdm": lambda t, norm: norm * t / (1 - t),
    "sigma": lambda t, norm: norm * t,
}


@dataclass(frozen=True)
class SiTSDE(Sampler):
    """SiT's SDE with Euler–Maruyama steps in the time of a flow: first order in law, one call per step.

    A flow has the state x_t = (1 − t) x₀ + t ε with t = σ/(1 + σ), the velocity v = ε̂ − x̂₀ and the score s = −ε̂/t. For
    any w(t) ≥ 0 the SDE dx_t = [v − ½ w s] dt + √w dW, from noise to data, has the marginals of the flow. With ⁺ for
    the next level and h = t − t⁺:
        x_t⁺ = x_t − h [v − ½ w s] + √(w h) z  =  (1 − t⁺) x̂₀ + (t⁺ − h w/2t) ε̂ + √(w h) z

    `diffusion` names w, and `norm` is its factor c:
        sigma                   2 c t; the paper's code also has it as "linear", which is the same on this path
        sbdm                    2 c t/(1 − t), the reverse SDE at c = 1, whose noise is unbounded as t → 1
        constant                2 c
        increasing_decreasing   2 c sin² πt
        decreasing              ½ (1 − c cos πt)²

    The step to σ⁺ = 0 draws no noise. `last` "ode" is a step of the flow, which ends at x̂₀. "mean" is the step of the
    SDE without its noise, the default of the paper's code: it ends at x̂₀ − (w/2) ε̂, beyond the data. The paper takes
    250 steps, the last one from t = 0.04, which is the grid `flow` with last = 0.04. Where w stays above 0 at the data
    ("constant"; "decreasing" unless c = 1), steps near it must be as short as t² to be stable on narrow data. c = 0 is
    Euler. (Ma et al. 2024, arXiv:2401.08740)

    Raises:
        ValueError: diffusion or last is unknown, or norm is not in [0, 100].
    """

    diffusion: Literal["constant", "decreasing", "increasing_decreasing", "sbdm", "sigma"] = "sigma"
    norm: float = 1.0
    last: Literal["ode", "mean"] = "ode"

    def __post_init__(self) -> None:
        one_of("SiTSDE.diffusion", self.diffusion, DIFFUSIONS)
        within("SiTSDE.norm", self.norm, 0, 100)
        one_of("SiTSDE.last", self.last, ("ode", "mean"))

    @property
    def stochastic(self) -> bool:
        """True unless w is 0."""
        return self.norm > 0 or self.diffusion == "decreasing"

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        x0 = denoise(x, sigma)
        t, h = sigma / (1 + sigma), (sigma - sigma_next) / ((1 + sigma) * (1 + sigma_next))
        half = DIFFUSIONS[self.diffusion](t, self.norm)
        if sigma_next == 0 and self.last == "ode":
            half = 0.0
        kept = sigma_next - (1 + sigma_next) * h * half / t  # of ε̂, in the σ clock
        x = torch.lerp(x0, x, kept / sigma)
        if sigma_next > 0 and half > 0:
            x.add_(between(noise, sigma, sigma_next, x), alpha=(1 + sigma_next) * sqrt(2 * half * h))
        return x, None
