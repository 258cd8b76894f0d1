"""DPM-Solver++(2M) SDE."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, expm1, sqrt
from typing import ClassVar, Literal

import torch
from torch import Tensor

from samplers.adams import Node, log_ratio, phi
from samplers.base import Denoiser, Noise, between
from samplers.checks import one_of, within
from samplers.multistep import History, Multistep


@dataclass(frozen=True)
class DPMpp2MSDE(Multistep):
    """DPM-Solver++(2M) SDE: second order in law by looking one step back, one call per step.

    The reverse SDE with η times its noise is dx = (1+η)(D − x) dλ + √(2η) σ dB in λ = −log σ. Over a step of h, with
    H = (1+η) h, a = (σ⁺/σ) e^{−ηh} = e^{−H}, D = x̂₀, ⁺ for the next level and ′ for the previous step:
        midpoint   x⁺ = a x + (1 − a) D + ½ (1 − a)(h/h′)(D − D′)           + σ⁺ √(1 − e^{−2ηh}) z
        heun       x⁺ = a x + (1 − a) D + (1 − (1 − a)/H)(h/h′)(D − D′)     + σ⁺ √(1 − e^{−2ηh}) z

    `eta` ≥ 0 scales the noise: 0 is DPM-Solver++(2M), 1 is the reverse SDE. `solver` "heun" integrates the line through
    D and D′ exactly. The first step and the step to σ⁺ = 0 use D alone. (Lu et al. 2022, arXiv:2211.01095,
    SDE-DPM-Solver++; Crowson 2022, k-diffusion)

    With `lower_order_final` the last step of a run of fewer than 15 steps uses D alone on any grid.

    Raises:
        ValueError: eta is negative or not finite, solver is not "midpoint" or "heun", or lower_order_final is not
            True or False.
    """

    order: ClassVar[int] = 2
    eta: float = 1.0
    solver: Literal["midpoint", "heun"] = "midpoint"

    def __post_init__(self) -> None:
        super().__post_init__()
        within("DPMpp2MSDE.eta", self.eta, 0)
        one_of("DPMpp2MSDE.solver", self.solver, ("midpoint", "heun"))

    @property
    def stochastic(self) -> bool:
        """True unless eta is 0."""
        return self.eta > 0

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: History | None, noise: Noise
    ) -> tuple[Tensor, History]:
        """x at `sigma` -> x at `sigma_next`. Memory: the prediction at `sigma`."""
        d = x0 = denoise(x, sigma)
        nodes, memory = (memory or History()).look_back(Node(sigma, x0), 2)
        if sigma_next == 0:
            return torch.lerp(x0, x, 0.0), memory
        h = log_ratio(sigma, sigma_next)
        if len(nodes) == 2:
            slope = 0.5 if self.solver == "midpoint" else _heun(h * (1 + self.eta))
            d = torch.lerp(nodes[1].value, x0, 1 + slope * h / log_ratio(nodes[1].sigma, sigma))
        x = torch.lerp(d, x, sigma_next / sigma * exp(-self.eta * h))
        if self.stochastic:
            x.add_(between(noise, sigma, sigma_next, x), alpha=sigma_next * sqrt(-expm1(-2 * self.eta * h)))
        return x, memory


def _heun(h: float) -> float:
    """(1 − (1 − e^{−h})/h)/(1 − e^{−h}), which is φ₂(−h)/φ₁(−h)."""
    phi_1, phi_2 = phi(2, -h)
    return phi_2 / phi_1
