"""iPNDM, the improved pseudo linear multistep method, and iPNDM-v, its form for uneven steps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from samplers.adams import Node, along_noise, sigma_weights
from samplers.base import Denoiser, Noise, Sampler
from samplers.checks import one_of
from samplers.dpm_solver import VARIANTS, Variant

# Adams–Bashforth weights of even steps, newest first.
EVEN = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


@dataclass(frozen=True)
class IPNDM(Sampler):
    """iPNDM, Adams–Bashforth with the weights of even steps: second order, one call per step.

    With ε = (x − x̂₀)/σ, ⁺ for the next level and ε₋₁, ε₋₂, ε₋₃ the previous noise predictions:
        x⁺ = x + (σ⁺ − σ)(55 ε − 59 ε₋₁ + 37 ε₋₂ − 9 ε₋₃)/24

    The first steps use the weights 1 (Euler), (3, −1)/2 and (23, −16, 5)/12. The weights do not depend on the step
    lengths. The order is therefore 2 where neighbouring steps have nearly equal lengths, and 4 where all are equal.
    `max_order` is the number of predictions a step uses, including the current one. σ⁺ = 0 needs no special case.
    (Zhang and Chen 2023, arXiv:2204.13902, appendix)

    Raises:
        ValueError: max_order is not 1, 2, 3 or 4.
    """

    max_order: int = 4

    def __post_init__(self) -> None:
        one_of("IPNDM.max_order", self.max_order, (1, 2, 3, 4))

    @property
    def order(self) -> int:
        """2 (1 for max_order 1), on a grid whose neighbouring steps have nearly equal lengths."""
        return min(2, self.max_order)

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        memory: tuple[Node, ...] | None,
        noise: Noise,
    ) -> tuple[Tensor, tuple[Node, ...]]:
        """x at `sigma` -> x at `sigma_next`. Memory: the noise predicted at the last levels."""
        x0 = denoise(x, sigma)
        history = (Node(sigma, x - x0), *(memory or ()))[: self.max_order]
        weights = [(sigma_next - sigma) * weight for weight in EVEN[len(history) - 1]]
        return along_noise(x, x0, history, weights), history


@dataclass(frozen=True)
class IPNDMv(Sampler):
    """iPNDM-v, Adams–Bashforth with the weights of uneven steps: up to fourth order, one call per step.

    With the step lengths h, h₁, h₂, h₃, newest first, Newton's form of the Adams–Bashforth weights is
        mean of ε over the step = ε + A₁ ∇₁ + A₂ ∇₂ + A₃ ∇₃
        ∇₁ = ε − ε₋₁,   q = h₁(h₁+h₂)/(h₂(h₂+h₃))
        ∇₂ = ∇₁ − (h₁/h₂)(ε₋₁ − ε₋₂)
        ∇₃ = ∇₂ − q ((ε₋₁ − ε₋₂) − (h₂/h₃)(ε₋₂ − ε₋₃))
        A₁ = h/(2h₁)
        A₂ = ½ [1 − h/(3(h+h₁))] · h(h+h₁)/(h₁(h₁+h₂))
        A₃ = {½ [1 − h/(3(h+h₁))] − [1 − h/(2(h+h₁))] h/(6(h+h₁+h₂))} · h(h+h₁)(h+h₁+h₂)/(h₁(h₁+h₂)(h₁+h₂+h₃))

    `variant` "corrected" is this, and equals LMS. The published code, and copies of it, have
        A₂ = ½ [1 − h/(3(h+h₁)) · h(h+h₁)/(h₁(h₁+h₂))]      a parenthesis moved
        A₃ = {½ […] + […] …} · …                             a sign: on even steps (57, −65, 43, −11)/24
        the weight of ε₋₃ with h₁/h₂ for h₂/h₃               so the weights do not sum to 1, unless steps change evenly

    On a smooth grid that reduces it to second order. Where step lengths jump, variant "published" does not converge at
    all. `max_order` is the number of predictions a step uses, including the current one. The first steps use as many
    predictions as there are. σ⁺ = 0 needs no special case. (Zhang and Chen 2023, arXiv:2204.13902; Zhou et al. 2023,
    zju-pi/diff-sampler)

    Raises:
        ValueError: max_order is not 1, 2, 3 or 4, or variant is not "corrected" or "published".
    """

    max_order: int = 4
    variant: Variant = "corrected"

    def __post_init__(self) -> None:
        one_of("IPNDMv.max_order", self.max_order, (1, 2, 3, 4))
        one_of("IPNDMv.variant", self.variant, VARIANTS)

    @property
    def order(self) -> int:
        """`max_order`; at most 2 for the published variant, where neighbouring steps have nearly equal lengths."""
        return self.max_order if self.variant == "corrected" else min(2, self.max_order)

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        memory: tuple[Node, ...] | None,
        noise: Noise,
    ) -> tuple[Tensor, tuple[Node, ...]]:
        """x at `sigma` -> x at `sigma_next`. Memory: the noise predicted at the last levels."""
        x0 = denoise(x, sigma)
        history = (Node(sigma, x - x0), *(memory or ()))[: self.max_order]
        if self.variant == "corrected":
            return along_noise(x, x0, history, sigma_weights(history, sigma_next)), history
        steps = [sigma - sigma_next, *(before.sigma - now.sigma for now, before in pairwise(history))]
        weights = [(sigma_next - sigma) * weight for weight in published_weights(*steps)]
        return along_noise(x, x0, history, weights), history


def published_weights(h: float, *last: float) -> tuple[float, ...]:
    """The weights of the published code for step lengths h, h₁, …, newest first. They may not sum to 1."""
    if not last:
        return (1.0,)
    h1, *rest = last
    a1 = h / (2 * h1)
    if not rest:
        return 1 + a1, -a1
    h2, *rest = rest
    ratio, shrink = h1 / h2, h / (3 * (h + h1))
    a2 = (1 - shrink * h * (h + h1) / (h1 * (h1 + h2))) / 2
    weights = 1 + a1 + a2, -a1 - (1 + ratio) * a2, ratio * a2
    if not rest:
        return weights
    (h3,) = rest
    q = h1 * (h1 + h2) / (h2 * (h2 + h3))
    bracket = (1 - shrink) / 2 + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
    a3 = bracket * h * (h + h1) * (h + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
    third = 1.0, -1 - ratio - q, ratio + q * (1 + h2 / h3)
    return *(weight + a3 * c for weight, c in zip(weights, third, strict=True)), -a3 * q * ratio
