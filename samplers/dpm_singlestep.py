"""The single-step DPM-Solvers on the levels of the grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from samplers.adams import Node, adams_weights, along_predictions, log_ratio, phi
from samplers.base import Denoiser, Noise, Sampler
from samplers.checks import one_of


class Group(NamedTuple):
    """The steps of the grid that form one step of the solver.

    `orders` are those of the remaining steps of the run, counted from 1 in each group. `x` is the state at the start of
    the group, and `nodes` are the predictions in it, oldest first.
    """

    orders: tuple[int, ...]
    x: Tensor | None = None
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True)
class DPMSinglestep(Sampler):
    """The single-step DPM-Solver on the levels of the grid: second order, one call per step of the grid.

    Two or three steps of the grid, from σ over s₁ (and s₂) to σ⁺, form one step of the solver. Its inner levels are
    levels of the grid, so the grid sets r₁ and r₂, their places in the step in λ = −log σ. With D, D₁, D₂ the
    predictions of x₀ at σ, s₁, s₂, h = λ⁺ − λ, h₁ = r₁ h, h₂ = r₂ h, φ₁(z) = (e^z − 1)/z and φ₂(z) = (φ₁(z) − 1)/z:
        to s₁    x₁ = (s₁/σ) x + h₁ φ₁(−h₁) D
        to s₂    x₂ = (s₂/σ) x + h₂ φ₁(−h₂) [D + (h₂/2h₁)(D₁ − D)]
        to σ⁺    x⁺ = (σ⁺/σ) x + h [φ₁(−h) D + φ₂(−h) (D₂ − D)/r₂]

    The last line is of third order where r₂ = ⅔, as on a grid even in log σ, and of second order elsewhere. `solver`
    "heun" integrates the line through D and D₁ exactly in the step to s₂, and the parabola through D, D₁ and D₂ in the
    step to σ⁺. This does not change the order, because D₁ comes from an Euler step. `max_order` 2 ends the solver's
    step at s₂. `on` "noise" integrates ε in place of D. `dpm_3s` and `dpmpp_3s` choose their own inner levels, with
    r₂ = ⅔ on any grid.

    The last steps have lower orders. A run of n steps ends, for `max_order` 3, with steps of order 1, 2, 1 if n mod 3 =
    0, of order 1 if n mod 3 = 1 and of order 1, 2 if n mod 3 = 2, and for `max_order` 2 with 1, 1 if n is even and 1 if
    it is odd. A step to 0 is an Euler step. This is diffusers' DPMSolverSinglestepScheduler with `lower_order_final`.
    (Lu et al. 2022, arXiv:2206.00927, section 3.4; Lu et al. 2022, arXiv:2211.01095)

    Raises:
        ValueError: max_order is not 2 or 3, on is not "data" or "noise", or solver is not "midpoint" or "heun".
    """

    order: ClassVar[int] = 2
    max_order: int = 3
    on: Literal["data", "noise"] = "data"
    solver: Literal["midpoint", "heun"] = "midpoint"

    def __post_init__(self) -> None:
        one_of("DPMSinglestep.max_order", self.max_order, (2, 3))
        one_of("DPMSinglestep.on", self.on, ("data", "noise"))
        one_of("DPMSinglestep.solver", self.solver, ("midpoint", "heun"))

    def prepare(self, sigmas: tuple[float, ...]) -> Group:
        """The order of each step."""
        groups, rest = divmod(len(sigmas) - 1, self.max_order)
        last = [*range(1, rest + 1)]
        if rest == 0 and groups > 0:  # the last group ends in an Euler step
            groups, last = groups - 1, [*range(1, self.max_order), 1]
        orders = [*range(1, self.max_order + 1)] * groups + last
        if sigmas[-1] == 0:
            orders[-1:] = [1]
        return Group(tuple(orders))

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Group, noise: Noise
    ) -> tuple[Tensor, Group]:
        """x at `sigma` -> x at `sigma_next`. Memory: the start of the group and the predictions in it."""
        x0 = denoise(x, sigma)
        order, *rest = memory.orders
        node = Node(sigma, x0 if self.on == "data" else (x - x0) / sigma)
        if order == 1:
            return torch.lerp(x0, x, sigma_next / sigma), Group(tuple(rest), x, (node,))
        assert memory.x is not None
        group = Group(tuple(rest), memory.x, (*memory.nodes, node))
        return self._higher(memory.x, group.nodes, sigma_next), group

    def _higher(self, x: Tensor, nodes: tuple[Node, ...], sigma_next: float) -> Tensor:
        """A step of order 2 or 3 from the start of the group to `sigma_next`."""
        sigma, order = nodes[0].sigma, len(nodes)
        h = log_ratio(sigma, sigma_next)
        ratio, scale, z = (sigma_next / sigma, h, -h) if self.on == "data" else (1.0, -sigma_next * h, h)
        if self.solver == "midpoint":  # of the inner predictions it uses the last
            nodes = nodes[:: order - 1]
        thetas = tuple(log_ratio(sigma, node.sigma) / h for node in nodes)
        if self.solver == "heun":
            weights = adams_weights(thetas, z)
        else:
            phi_1, phi_2 = phi(2, z)
            slope = (phi_1 / 2 if order == 2 else phi_2) / thetas[1]
            weights = (phi_1 - slope, slope)
        return along_predictions(x, ratio, nodes, [scale * weight for weight in weights])
