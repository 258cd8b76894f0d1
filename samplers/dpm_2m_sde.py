"""DPM-Solver-2M SDE on ε."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Literal

import torch
from torch import Tensor

from samplers.adams import Node, along_noise, log_ratio, phi
from samplers.base import Denoiser, Noise, between
from samplers.checks import one_of, within
from samplers.multistep import History, Multistep


@dataclass(frozen=True)
class DPMSolver2MSDE(Multistep):
    """DPM-Solver-2M SDE on ε: second order in law by looking one step back, one call per step.

    The reverse SDE with η times its noise is dx = −(1+η) σ ε dλ + √(2η) σ dB in λ = −log σ. Over a step of h, with ⁺
    for the next level, ′ for the previous step, φ₁ = (e^h − 1)/h and φ₂ = (φ₁ − 1)/h:
        midpoint   x⁺ = x − (1+η) σ⁺ h [φ₁ ε + ½ φ₁ (h/h′)(ε − ε′)]   + √(η (σ² − σ⁺²)) z
        heun       x⁺ = x − (1+η) σ⁺ h [φ₁ ε + φ₂ (h/h′)(ε − ε′)]     + √(η (σ² − σ⁺²)) z

    `eta` ≥ 0 scales the noise: 0 is DPM-Solver-2M, 1 is the reverse SDE. `solver` "heun" integrates the line through ε
    and ε′ exactly. The first step uses ε alone, and the step to σ⁺ = 0 returns x̂₀. For h → 0 the law is that of
    `dpmpp_2m_sde`. Few steps leave much more noise: on data at a single point, where `dpmpp_2m_sde` keeps the
    marginals exactly, the first step with η = 1 makes the variance σ⁺² + 2 (σ − σ⁺)². This is "sde-dpmsolver" of
    diffusers. (Lu et al. 2022, arXiv:2211.01095, SDE-DPM-Solver-2M)

    With `lower_order_final` the last step of a run of fewer than 15 steps uses ε alone on any grid.

    Raises:
        ValueError: eta is negative or not finite, solver is not "midpoint" or "heun", or lower_order_final is not
            True or False.
    """

    order: ClassVar[int] = 2
    eta: float = 1.0
    solver: Literal["midpoint", "heun"] = "midpoint"

    def __post_init__(self) -> None:
        super().__post_init__()
        within("DPMSolver2MSDE.eta", self.eta, 0)
        one_of("DPMSolver2MSDE.solver", self.solver, ("midpoint", "heun"))

    @property
    def stochastic(self) -> bool:
        """True unless eta is 0."""
        return self.eta > 0

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: History | None, noise: Noise
    ) -> tuple[Tensor, History]:
        """x at `sigma` -> x at `sigma_next`. Memory: the prediction of the noise at `sigma`."""
        x0 = denoise(x, sigma)
        nodes, memory = (memory or History()).look_back(Node(sigma, x - x0), 2)
        if sigma_next == 0:
            return torch.lerp(x0, x, 0.0), memory
        h = log_ratio(sigma, sigma_next)
        phi_1, phi_2 = phi(2, h)
        weights = [phi_1]
        if len(nodes) == 2:
            slope = (phi_1 / 2 if self.solver == "midpoint" else phi_2) * h / log_ratio(nodes[1].sigma, sigma)
            weights = [phi_1 + slope, -slope]
        x = along_noise(x, x0, nodes, [-(1 + self.eta) * sigma_next * h * weight for weight in weights])
        if self.stochastic:
            spread = sqrt(self.eta * (sigma - sigma_next) * (sigma + sigma_next))
            x.add_(between(noise, sigma, sigma_next, x), alpha=spread)
        return x, memory
