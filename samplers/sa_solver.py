"""SA-Solver, stochastic Adams methods with a predictor and a corrector."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, expm1, inf, sqrt
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from samplers.adams import Node, adams_weights, along_predictions, log_ratio, phi
from samplers.base import Denoiser, Noise, between
from samplers.checks import one_of, within
from samplers.multistep import History, Multistep


class Predicted(NamedTuple):
    """A predicted step before its correction: its start, its noise and the predictions made so far.

    Before the first step there is no start.
    """

    x: Tensor | None = None
    fresh: Tensor | None = None
    history: History = History()


@dataclass(frozen=True)
class SASolver(Multistep):
    """SA-Solver: second order in law, up to fourth without noise, one call per step (two with `pece`).

    The reverse SDE with τ² times its noise is dx = (1+τ²)(D − x) dλ + √2 τ σ dB in λ = −log σ. Over a step of h from σ
    to σ⁺, with H = (1+τ²) h and ℓ_j the Lagrange polynomials in θ, which runs from 0 at σ to 1 at σ⁺, of the levels
    used:
        x⁺ = e^{−H} x + H Σ_j D_j ∫₀¹ e^{−(1−θ)H} ℓ_j(θ) dθ + σ⁺ √(1 − e^{−2τ²h}) z
        predictor   D_j at the level σ and those before it
        corrector   D_j at the level σ⁺, from the predicted x⁺, and those before it; x and z as in the predictor

    A step here begins with the corrector of the previous one, so there is one call per level. In mode PEC the next
    predictor reuses the corrector's D. In mode PECE (`pece`) the denoiser is called again at the corrected x. The last
    x is not corrected.

    `predictor` (1 to 4) and `corrector` (0 to 4) are the numbers of levels used; 0 means no corrector. `tau` ≥ 0 scales
    the noise where tau_low ≤ σ ≤ tau_high: 0 is the probability flow, 1 is the reverse SDE. `variant` "published" is
    the authors' code, and diffusers after it: ½ H in place of H φ₂(−H) = ∫₀¹ H e^{−(1−θ)H} θ dθ where two levels are
    used, as in UniPC with B = h. The order is the same. (Xue et al. 2023, arXiv:2309.05019, Algorithm 1)

    `on` "noise" integrates the noise prediction ε = (x − D)/σ in place of D. Both variants are the same there, and few
    steps leave much more noise. This is "noise_prediction" of diffusers:
        x⁺ = x − (1+τ²) σ⁺ h Σ_j ε_j ∫₀¹ e^{(1−θ)h} ℓ_j(θ) dθ + τ √(σ² − σ⁺²) z

    With `lower_order_final` a step that has m steps left, itself included, uses m levels at most in its predictor, and
    m + 1 in its corrector. This is the default of diffusers, in runs of any length. The claimed order is 2 at most.

    Raises:
        ValueError: an option is out of range.
    """

    _few: ClassVar[float] = inf
    _last: ClassVar[int] = 3
    tau: float = 1.0
    tau_low: float = 0.0
    tau_high: float = inf
    predictor: int = 3
    corrector: int = 3
    pece: bool = False
    variant: Literal["corrected", "published"] = "corrected"
    on: Literal["data", "noise"] = "data"

    def __post_init__(self) -> None:
        super().__post_init__()
        within("SASolver.tau", self.tau, 0)
        within("SASolver.tau_low", self.tau_low, 0)
        if self.tau_high != inf:
            within("SASolver.tau_high", self.tau_high, self.tau_low)
        one_of("SASolver.predictor", self.predictor, (1, 2, 3, 4))
        one_of("SASolver.corrector", self.corrector, (0, 1, 2, 3, 4))
        one_of("SASolver.variant", self.variant, ("corrected", "published"))
        one_of("SASolver.on", self.on, ("data", "noise"))

    @property
    def order(self) -> int:
        """The corrector's order, at most `predictor` + 1. Without a corrector `predictor`.

        With noise, or with `lower_order_final`, at most 2.
        """
        order = min(self.corrector, self.predictor + 1) if self.corrector > 0 else self.predictor
        return min(order, 2) if self.stochastic or self.lower_order_final else order

    @property
    def stochastic(self) -> bool:
        """True unless tau is 0."""
        return self.tau > 0

    def prepare(self, sigmas: tuple[float, ...]) -> Predicted:
        """A memory without a previous step."""
        return Predicted(history=super().prepare(sigmas))

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Predicted | None, noise: Noise
    ) -> tuple[Tensor, Predicted]:
        """x at `sigma` -> x at `sigma_next`. Memory: the state before the step, its noise and the last predictions."""
        x0, before = denoise(x, sigma), memory or Predicted()
        history, value = before.history, self._value(x, x0, sigma)
        if self.corrector > 0 and before.x is not None:
            start = history.nodes[0].sigma
            levels = min(self.corrector, history.limit(start, self.corrector) + 1)
            x = self._adams(before.x, start, sigma, (Node(sigma, value), *history.nodes)[:levels], before.fresh)
            if self.pece:
                x0 = denoise(x, sigma)
                value = self._value(x, x0, sigma)
        history = history._replace(nodes=(Node(sigma, value), *history.nodes)[:4])
        if sigma_next == 0:
            return torch.lerp(x0, x, 0.0), Predicted(x, None, history)
        fresh = between(noise, sigma, sigma_next, x) if self._tau(sigma) > 0 else None
        guess = self._adams(x, sigma, sigma_next, history.used(self.predictor), fresh)
        return guess, Predicted(x, fresh, history)

    def _adams(
        self, x: Tensor, sigma: float, sigma_next: float, nodes: tuple[Node, ...], fresh: Tensor | None
    ) -> Tensor:
        """The update from `sigma` to `sigma_next` through the predictions at `nodes`."""
        h, eta = log_ratio(sigma, sigma_next), self._tau(sigma) ** 2
        h_eta = (1 + eta) * h
        thetas = tuple(_signed_log_ratio(sigma, node.sigma) / h for node in nodes)
        if self.on == "noise":
            ratio, spread = 1.0, sqrt(eta * (sigma - sigma_next) * (sigma + sigma_next))
            weights = [-h_eta * sigma_next * weight for weight in adams_weights(thetas, h)]
        else:
            ratio, spread = sigma_next / sigma * exp(-eta * h), sigma_next * sqrt(-expm1(-2 * eta * h))
            weights = [h_eta * weight for weight in adams_weights(thetas, -h_eta)]
            if self.variant == "published" and len(nodes) == 2:
                excess = h_eta * (0.5 - phi(2, -h_eta)[1]) / (thetas[0] - thetas[1])
                weights = [weights[0] + excess, weights[1] - excess]
        out = along_predictions(x, ratio, nodes, weights)
        return out if fresh is None else out.add_(fresh, alpha=spread)

    def _value(self, x: Tensor, x0: Tensor, sigma: float) -> Tensor:
        """What is integrated: x̂₀ or ε."""
        return x0 if self.on == "data" else (x - x0) / sigma

    def _tau(self, sigma: float) -> float:
        return self.tau if self.tau_low <= sigma <= self.tau_high else 0.0


def _signed_log_ratio(a: float, b: float) -> float:
    return log_ratio(a, b) if a > b else -log_ratio(b, a)
