"""The single-step DPM-Solvers: DPM-Solver-2 and -3 on ε, DPM-Solver++(2S) and (3S) on x̂₀, DPM-Solver-fast.

Each is an Euler step plus a correction.

r₁ is free. r₂ is not: the second derivative has φ₂ r₂/2 in place of φ₃, and they agree as h → 0 only at r₂ = ⅔. The
authors' code accepts any r₂, but with r₂ ≠ ⅔ the third-order samplers are of order 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from samplers.adams import log_ratio, phi
from samplers.base import Denoiser, Noise, Sampler
from samplers.checks import one_of, within


@dataclass(frozen=True)
class DPMSolver2S(Sampler):
    """DPM-Solver-2 on ε: second order, two calls per step.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level, s₁ the level at r₁ of the step in λ and φ₁(z) = (e^z − 1)/z:
        u₁ = x − s₁ r₁h φ₁(r₁h) ε
        x⁺ = x − σ⁺ h φ₁(h) [ε + (ε(u₁, s₁) − ε)/(2 r₁)]

    `r1` is the position of the second call within the step, in log σ. The step to σ⁺ = 0 is an Euler step and makes one
    call. (Lu et al. 2022, arXiv:2206.00927, Algorithm 1)

    Raises:
        ValueError: r1 is not in [0.01, 1].
    """

    order: ClassVar[int] = 2
    r1: float = 0.5

    def __post_init__(self) -> None:
        within("DPMSolver2S.r1", self.r1, 0.01, 1)

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        if sigma_next == 0:
            return torch.lerp(denoise(x, sigma), x, 0.0), None
        return _second_on_noise(denoise, x, sigma, sigma_next, self.r1), None


@dataclass(frozen=True)
class DPMSolver3S(Sampler):
    """DPM-Solver-3 on ε: third order, three calls per step.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level, s₁ and s₂ the levels at r₁ and r₂ = ⅔ of the step in λ,
    φ₁(z) = (e^z − 1)/z and φ₂(z) = (φ₁(z) − 1)/z:
        u₁ = x − s₁ r₁h φ₁(r₁h) ε
        u₂ = x − s₂ r₂h [φ₁(r₂h) ε + φ₂(r₂h) (r₂/r₁)(ε(u₁, s₁) − ε)]
        x⁺ = x − σ⁺ h [φ₁(h) ε + φ₂(h) (ε(u₂, s₂) − ε)/r₂]

    `r1` is the position of the second call within the step, in log σ. The step to σ⁺ = 0 is an Euler step and makes one
    call. (Lu et al. 2022, arXiv:2206.00927, Algorithm 2)

    Raises:
        ValueError: r1 is not in [0.01, 1].
    """

    order: ClassVar[int] = 3
    r1: float = 1 / 3

    def __post_init__(self) -> None:
        within("DPMSolver3S.r1", self.r1, 0.01, 1)

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        if sigma_next == 0:
            return torch.lerp(denoise(x, sigma), x, 0.0), None
        return _third_on_noise(denoise, x, sigma, sigma_next, self.r1), None


@dataclass(frozen=True)
class DPMpp2S(Sampler):
    """DPM-Solver++(2S) on x̂₀: second order, two calls per step.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level, s₁ the level at r₁ of the step in λ, φ₁(z) = (e^z − 1)/z and D
    short for D(x, σ):
        u₁ = (s₁/σ) x + r₁h φ₁(−r₁h) D
        x⁺ = (σ⁺/σ) x + h φ₁(−h) [D + (D(u₁, s₁) − D)/(2 r₁)]

    `r1` is the position of the second call within the step, in log σ. The step to σ⁺ = 0 is an Euler step and makes one
    call. (Lu et al. 2022, arXiv:2211.01095, Algorithm 1)

    Raises:
        ValueError: r1 is not in [0.01, 1].
    """

    order: ClassVar[int] = 2
    r1: float = 0.5

    def __post_init__(self) -> None:
        within("DPMpp2S.r1", self.r1, 0.01, 1)

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        x0 = denoise(x, sigma)
        if sigma_next > 0:
            q = (sigma_next / sigma) ** self.r1
            d1 = denoise(torch.lerp(x0, x, q), q * sigma)
            x0 = d1 if self.r1 == 0.5 else torch.lerp(x0, d1, 1 / (2 * self.r1))
        return torch.lerp(x0, x, sigma_next / sigma), None


@dataclass(frozen=True)
class DPMpp3S(Sampler):
    """DPM-Solver++(3S) on x̂₀: third order, three calls per step.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level, s₁ and s₂ the levels at r₁ and r₂ = ⅔ of the step in λ,
    φ₁(z) = (e^z − 1)/z, φ₂(z) = (φ₁(z) − 1)/z and D short for D(x, σ):
        u₁ = (s₁/σ) x + r₁h φ₁(−r₁h) D
        u₂ = (s₂/σ) x + r₂h [φ₁(−r₂h) D + φ₂(−r₂h) (r₂/r₁)(D(u₁, s₁) − D)]
        x⁺ = (σ⁺/σ) x + h [φ₁(−h) D + φ₂(−h) (D(u₂, s₂) − D)/r₂]

    `r1` is the position of the second call within the step, in log σ. The step to σ⁺ = 0 is an Euler step and makes one
    call. (Lu et al. 2022, arXiv:2211.01095, appendix)

    Raises:
        ValueError: r1 is not in [0.01, 1].
    """

    order: ClassVar[int] = 3
    r1: float = 1 / 3

    def __post_init__(self) -> None:
        within("DPMpp3S.r1", self.r1, 0.01, 1)

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        x0 = denoise(x, sigma)
        out = torch.lerp(x0, x, sigma_next / sigma)
        if sigma_next > 0:
            h, r1, r2 = log_ratio(sigma, sigma_next), self.r1, 2 / 3
            q1, q2 = (sigma_next / sigma) ** r1, (sigma_next / sigma) ** r2
            d1 = denoise(torch.lerp(x0, x, q1), q1 * sigma) - x0
            u2 = torch.lerp(x0, x, q2).add_(d1, alpha=r2 * h * phi(2, -r2 * h)[1] * r2 / r1)
            d2 = denoise(u2, q2 * sigma) - x0
            out.add_(d2, alpha=h * phi(2, -h)[1] / r2)
        return out, None


@dataclass(frozen=True)
class DPMSolverFast(Sampler):
    """DPM-Solver-fast: DPM-Solver-3 steps, and last steps that use up a budget of calls; second order.

    For a budget of K calls the authors use ⌊K/3⌋ + 1 steps, even in log σ:
        K mod 3 = 0    order 3 in all steps but the last two, which are of order 2 and 1
        K mod 3 = r    order 3 in all steps but the last, which is of order r

    Here the grid sets the steps, and `remainder` = K mod 3 sets the orders of the last ones. Order 3 is a DPM-Solver-3
    step with r₁ = ⅓, order 2 is a DPM-Solver-2 step with r₁ = ½, and order 1 is an Euler step. A step to 0 is always an
    Euler step. (Lu et al. 2022, arXiv:2206.00927, section 3.4)

    Raises:
        ValueError: remainder is not 0, 1 or 2.
    """

    remainder: int = 0

    def __post_init__(self) -> None:
        one_of("DPMSolverFast.remainder", self.remainder, (0, 1, 2))

    @property
    def order(self) -> int:
        """3 with remainder 2; otherwise 2, because one Euler step has an error of h²."""
        return 3 if self.remainder == 2 else 2

    def prepare(self, sigmas: tuple[float, ...]) -> tuple[int, ...]:
        """The order of each step."""
        ending = [2, 1] if self.remainder == 0 else [self.remainder]
        orders = [3] * (len(sigmas) - 1 - len(ending)) + ending
        if sigmas[-1] == 0:
            orders[-1] = 1
        return tuple(orders[len(orders) - len(sigmas) + 1 :])

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: tuple[int, ...], noise: Noise
    ) -> tuple[Tensor, tuple[int, ...]]:
        """x at `sigma` -> x at `sigma_next`. Memory: the orders of the remaining steps."""
        order, *rest = memory
        if order == 1:
            return torch.lerp(denoise(x, sigma), x, sigma_next / sigma), tuple(rest)
        if order == 2:
            return _second_on_noise(denoise, x, sigma, sigma_next, 0.5), tuple(rest)
        return _third_on_noise(denoise, x, sigma, sigma_next, 1 / 3), tuple(rest)


def _second_on_noise(denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, r1: float) -> Tensor:
    x0 = denoise(x, sigma)
    s1 = sigma * (sigma_next / sigma) ** r1
    u1 = torch.lerp(x0, x, s1 / sigma)
    step = sigma_next - sigma  # −σ⁺ h φ₁(h)
    out = torch.lerp(x0, x, 1 + step / sigma * (1 - 1 / (2 * r1)))
    return out.add_(u1 - denoise(u1, s1), alpha=step / (2 * r1 * s1))


def _third_on_noise(denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, r1: float) -> Tensor:
    x0 = denoise(x, sigma)
    r2 = 2 / 3
    h = log_ratio(sigma, sigma_next)
    s1, s2 = (sigma * (sigma_next / sigma) ** r for r in (r1, r2))
    u1 = torch.lerp(x0, x, s1 / sigma)
    eps = (x - x0) / sigma
    d1 = (u1 - denoise(u1, s1)).div_(s1).sub_(eps)
    u2 = torch.lerp(x0, x, s2 / sigma).add_(d1, alpha=-s2 * r2 * h * phi(2, r2 * h)[1] * r2 / r1)
    d2 = (u2 - denoise(u2, s2)).div_(s2).sub_(eps)
    return torch.lerp(x0, x, sigma_next / sigma).add_(d2, alpha=-sigma_next * h * phi(2, h)[1] / r2)
