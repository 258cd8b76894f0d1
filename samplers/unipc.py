"""UniPC, a predictor and a corrector that share one call."""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, inf
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from samplers.adams import Node, adams_weights, along_predictions, log_nodes, log_ratio
from samplers.base import Denoiser, Noise
from samplers.checks import one_of
from samplers.multistep import History, Multistep


class Before(NamedTuple):
    """The corrected state at the start of the previous step, and the predictions made so far.

    Before the first step there is no state.
    """

    x: Tensor | None = None
    history: History = History()


@dataclass(frozen=True)
class UniPC(Multistep):
    """UniPC-p, predictor and corrector in one call per step: order p + 1, or p without the corrector.

    With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level, and x_E = (σ⁺/σ) x + (1 − e^{−h}) x̂₀ for Euler's step, UniP-p
    extrapolates from p predictions. UniC-p repeats the step once the prediction at its end has been made:
        UniP-p   x⁺ = x_E + B(h) Σ_m a_m (x̂₀₋ₘ − x̂₀)/r_m                                  1 ≤ m < p
        UniC-p   x⁺ = x_E + B(h) Σ_m a_m (x̂₀₋ₘ − x̂₀)/r_m + B(h) a_p (x̂₀⁺ − x̂₀)

    r_m < 0 are the positions of the earlier levels in λ, in units of h. The a_m make the step exact for polynomials x̂₀
    in λ of degree p − 1 (UniP) or p (UniC). B cancels, and these are the exponential Adams–Bashforth and Adams–Moulton
    methods. Where there is only one a, the authors set a = ½, and B matters:
        UniP-2   x⁺ = x_E + ½ B (x̂₀ − x̂₀₋₁)/|r₁|         UniC-1   x⁺ = x_E + ½ B (x̂₀⁺ − x̂₀)
        bh1      B = h                                     bh2      B = 1 − e^{−h}          (UniP-2 is DPM-Solver++(2M))

    A step corrects its input state with the prediction made at that state. It then predicts the next state from the
    corrected one with the same prediction. The first steps are of lower order. The step to σ⁺ = 0 is an Euler step and
    is not corrected. `max_order` is p, `kind` names B(h), and `corrector` = False omits UniC. (Zhao et al. 2023,
    arXiv:2302.04867)

    With `lower_order_final` the last step is UniP-1, and the one before it UniP-2 at most, corrected by UniC-2. This is
    the default of diffusers, in runs of any length. The claimed order is 2 at most.

    Raises:
        ValueError: max_order is not 1, 2 or 3, kind is not "bh1" or "bh2", or lower_order_final is not True or False.
    """

    _few: ClassVar[float] = inf
    max_order: int = 2
    kind: Literal["bh1", "bh2"] = "bh2"
    corrector: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("UniPC.max_order", self.max_order, (1, 2, 3))
        one_of("UniPC.kind", self.kind, ("bh1", "bh2"))

    @property
    def order(self) -> int:
        """`max_order`, and one more with the corrector; at most 2 with `lower_order_final`."""
        order = self.max_order + self.corrector
        return min(order, 2) if self.lower_order_final else order

    def prepare(self, sigmas: tuple[float, ...]) -> Before:
        """A memory without a previous step."""
        return Before(history=super().prepare(sigmas))

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Before | None, noise: Noise
    ) -> tuple[Tensor, Before]:
        """x at `sigma` -> x at `sigma_next`. Memory: the corrected x and the last predictions."""
        now, before = Node(sigma, denoise(x, sigma)), memory or Before()
        if self.corrector and before.x is not None:
            x = self._correct(before.x, before.history.used(self.max_order), now)
        history = before.history._replace(nodes=(now, *before.history.nodes)[: self.max_order])
        return self._predict(x, history.used(self.max_order), sigma_next), Before(x, history)

    def _predict(self, x: Tensor, history: tuple[Node, ...], sigma_next: float) -> Tensor:
        sigma, x0 = history[0]
        ratio = sigma_next / sigma
        if sigma_next == 0 or len(history) == 1:
            return torch.lerp(x0, x, ratio)
        h = log_ratio(sigma, sigma_next)
        nodes = log_nodes(history, h)
        if len(nodes) == 2:
            half = self._b(h) / (2 * nodes[1])
            return along_predictions(x, ratio, history, (-expm1(-h) - half, half))
        return along_predictions(x, ratio, history, [h * weight for weight in adams_weights(nodes, -h)])

    def _correct(self, x: Tensor, history: tuple[Node, ...], now: Node) -> Tensor:
        sigma, x0 = history[0]
        h, ratio = log_ratio(sigma, now.sigma), now.sigma / sigma
        if len(history) == 1:
            return torch.lerp(x0, x, ratio).add_(now.value - x0, alpha=self._b(h) / 2)
        weights = adams_weights((*log_nodes(history, h), 1.0), -h)
        return along_predictions(x, ratio, (*history, now), [h * weight for weight in weights])

    def _b(self, h: float) -> float:
        return h if self.kind == "bh1" else -expm1(-h)
