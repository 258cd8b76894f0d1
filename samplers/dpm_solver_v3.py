"""DPM-Solver-v3, a predictor and a corrector on the part of the prediction that model statistics leave unknown."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, factorial, inf
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from samplers.adams import Node, difference_weights, lagrange, log_ratio, phi
from samplers.base import Denoiser, Noise
from samplers.checks import one_of
from samplers.model_statistics import ModelStatistics
from samplers.multistep import History, Multistep
from samplers.statistics_file import load_statistics

_PANEL = 0.25  # the longest panel of the quadrature, in λ
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(6)
Kind = Literal["exact", "pseudo"]


class Before(NamedTuple):
    """The corrected state at the start of the previous step, and the z of the levels so far, newest first."""

    x: Tensor | None = None
    history: History = History()


@dataclass(frozen=True)
class DPMSolverV3(Multistep):
    """DPM-Solver-v3, exponential Adams methods on what statistics of the model leave unknown, one call per step.

    With λ = −log σ and statistics l, m and r of the model, functions of λ for every element of an image, the prediction
    is D = (1 − l) x − m − r z, where z has mean 0 and variance 1. The flow is then
        dx/dλ = −l x − m − r z
        x⁺ = e^{−L⁺} [x − ∫ e^{L} (m + r z) dλ],   L = ∫ l dλ from the start of the step

    l makes z depend on x as little as possible, and m and r remove what of its change is known beforehand. z is
    extrapolated by the polynomial in λ through its last `max_order` values. On Gaussian data z = 0, and a single step
    is exact. In the paper's terms r′/r = s and m′ − s m = b.

    `statistics` is a file of `sdlab statistics`, for one model and one guidance, or a `ModelStatistics`. Without it
    l = 1, m = 0 and r = 1, so that z = −D. The predictor is then `res_multistep`, and an exact corrector that of
    `unipc`, but for B(h) in UniC-1.

    `corrector` repeats a step once the prediction at its end is known, with one value more. The polynomials are
        exact     through all values
        pseudo    Newton's with all its nodes moved to the start of the step; more stable in few steps, of second order

    The paper takes an exact predictor and a pseudo corrector, `max_order` 2 with guidance and 3 without. The step to
    σ⁺ = 0 is an Euler step and is not corrected. (Zheng et al. 2023, arXiv:2310.13268, eq. 8 and section 3.2)

    With `lower_order_final` the last step uses one value, and the one before it two at most, in runs of any length. The
    claimed order is 2 at most.

    Raises:
        ValueError: the file of statistics is invalid, max_order is not 1, 2 or 3, corrector or predictor is unknown, or
            lower_order_final is not True or False. In a step: the statistics are of samples of another shape.
    """

    _few: ClassVar[float] = inf
    statistics: str | ModelStatistics = ""
    max_order: int = 2
    corrector: Literal["pseudo", "exact", "none"] = "pseudo"
    predictor: Literal["exact", "pseudo"] = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("DPMSolverV3.max_order", self.max_order, (1, 2, 3))
        one_of("DPMSolverV3.corrector", self.corrector, ("pseudo", "exact", "none"))
        one_of("DPMSolverV3.predictor", self.predictor, ("exact", "pseudo"))
        self.known()

    @property
    def order(self) -> int:
        """`max_order`, one more with an exact corrector; at most 2 with a pseudo one or `lower_order_final`."""
        order = self.max_order if self.predictor == "exact" else min(self.max_order, 2)
        order += self.corrector != "none"
        limited = self.corrector == "pseudo" or self.lower_order_final
        return min(order, 2) if limited else order

    def known(self) -> ModelStatistics | None:
        """The statistics, read from their file.

        Raises:
            ValueError: the file is invalid.
        """
        if not isinstance(self.statistics, str):
            return self.statistics
        try:
            return load_statistics(self.statistics) if self.statistics else None
        except ValueError as error:
            raise ValueError(f"DPMSolverV3.statistics {error}") from None

    def prepare(self, sigmas: tuple[float, ...]) -> Before:
        """A memory without a previous step."""
        return Before(history=super().prepare(sigmas))

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Before | None, noise: Noise
    ) -> tuple[Tensor, Before]:
        """x at `sigma` -> x at `sigma_next`. Memory: the corrected x and the last values of z."""
        before, x0 = memory or Before(), denoise(x, sigma)
        now = Node(sigma, self._unknown(x, x0, sigma))
        if self.corrector != "none" and before.x is not None:
            start, *older = before.history.used(self.max_order)
            x = self._moved(before.x, (start, now, *older), sigma, self.corrector)
        history = before.history._replace(nodes=(now, *before.history.nodes)[: self.max_order])
        if sigma_next == 0:
            return torch.lerp(x0, x, 0.0), Before(x, history)
        return self._moved(x, history.used(self.max_order), sigma_next, self.predictor), Before(x, history)

    def _unknown(self, x: Tensor, x0: Tensor, sigma: float) -> Tensor:
        """z."""
        if (known := self.known()) is None:
            return -x0
        linear, mean, spread = (torch.from_numpy(values).to(x) for values in known.fitting(x.shape[1:]).at(sigma))
        return ((1 - linear) * x - x0 - mean) / spread

    def _moved(self, x: Tensor, nodes: tuple[Node, ...], sigma_next: float, kind: Kind) -> Tensor:
        """x at `sigma_next`, from the level of the first node."""
        levels = tuple(node.sigma for node in nodes)
        known = self.known()
        fitting = None if known is None else known.fitting(x.shape[1:])
        kept, constant, *weights = _weights(fitting, levels, sigma_next, kind)
        out = torch.addcmul(constant.to(x), x, kept.to(x))
        for node, weight in zip(nodes, weights, strict=True):
            out.addcmul_(node.value, weight.to(x))
        return out


@lru_cache(maxsize=128)  # every batch of a sweep takes the same steps
def _weights(
    known: ModelStatistics | None, levels: tuple[float, ...], sigma_next: float, kind: Kind
) -> tuple[Tensor, ...]:
    """The factor of x, the constant, and the weights of the z at `levels`, for a step from the first of them."""
    start = levels[0]
    h = log_ratio(start, sigma_next)
    places = tuple(_place(start, level, h) for level in levels)
    rows = _polynomials(places, kind)
    if known is None:
        return _without(rows, h, sigma_next / start)
    panels = ceil(h / _PANEL)
    shares = ((np.arange(panels)[:, None] + (_NODES + 1) / 2) / panels).ravel()
    over = (np.tile(_WEIGHTS, panels) * h / (2 * panels)).reshape(-1, *[1] * len(known.shape))
    grown, mean, spread = known.along(start, h, shares)
    inner = over * np.exp(grown)
    back = -np.exp(-known.along(start, h, np.ones(1))[0][0])
    moments = [np.tensordot(shares**k, inner * spread, 1) for k in range(len(rows))]
    weights = (back * sum(c * moment for c, moment in zip(row, moments, strict=True)) for row in rows)
    return tuple(map(torch.as_tensor, (-back, back * (inner * mean).sum(0), *weights)))


def _without(rows: list[list[float]], h: float, ratio: float) -> tuple[Tensor, ...]:
    """The same for l = 1, m = 0 and r = 1, in closed form."""
    moments = [factorial(k) * value for k, value in enumerate(phi(len(rows), -h))]
    weights = (-h * sum(c * moment for c, moment in zip(row, moments, strict=True)) for row in rows)
    return tuple(torch.tensor(value, dtype=torch.float64) for value in (ratio, 0.0, *weights))


def _polynomials(places: tuple[float, ...], kind: Kind) -> list[list[float]]:
    """The coefficients, constant first, of the polynomial in θ that belongs to the value at each place."""
    if kind == "exact":
        return [lagrange(places, j) for j in range(len(places))]
    differences = [difference_weights(places[: k + 1]) for k in range(len(places))]
    return [[one[j] if j < len(one) else 0.0 for one in differences] for j in range(len(places))]


def _place(start: float, level: float, h: float) -> float:
    """θ of a level, in a step of h from `start`."""
    if level == start:
        return 0.0
    return log_ratio(start, level) / h if level < start else -log_ratio(level, start) / h
