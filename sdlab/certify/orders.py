"""Orders, measured: of the path, of the law, and of the path of a stochastic rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

from torch import Tensor

import samplers
from samplers.denoiser import Counted
from samplers.exact.law import NoLawError, laws, marginal, strong_errors
from sdlab.certify.checks import Check
from sdlab.certify.fit import Fit, fit
from sdlab.certify.problems import FLOWS, GAUSSIAN, STOPS, exact_path, order_grid

STEPS = (64, 128, 256, 512)
STRONG_STEPS, STRONG_LIMIT = (16, 32, 64), 256
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6)
SHORT = 0.25  # by how much a measured order may fall short of the one claimed
_SMOOTH = samplers.vp_levels()  # a table of levels has a corner at each, which a high order in its time would see


@dataclass(frozen=True)
class Orders:
    """Fits by what they are of; empty where that does not apply.

    `path` has one a problem, of a deterministic rule as it runs; `full` the same with its memory full from the start,
    measured where the first falls short of the claim. `weak` has the mean and the variance of a stochastic rule's law
    on the Gaussian, the worst relative error over all levels and dimensions; `strong` its pictures on Brownian paths.
    `levels` has these errors at each level of 20 steps: (σ, mean, variance).
    """

    path: dict[str, Fit] = field(default_factory=dict)
    full: dict[str, Fit] = field(default_factory=dict)
    weak: dict[str, Fit] = field(default_factory=dict)
    strong: Fit | None = None
    levels: tuple[tuple[float, float, float], ...] = ()

    @property
    def judged(self) -> dict[str, Fit]:
        """The fits that the claim is held against: the better of `path` and `full`, or those of the law."""
        return {**self.path, **{k: f for k, f in self.full.items() if not self.path[k].order > f.order}, **self.weak}

    @property
    def lowest(self) -> float:
        """The lowest order that was measured; nan where none could be."""
        return min((fit.order for fit in self.judged.values() if not math.isnan(fit.order)), default=math.nan)


def measure(rule: samplers.Sampler, strong: bool = True) -> Orders:
    """Every order of a rule; with `strong` that on Brownian paths too."""
    rule = rule.with_levels(_SMOOTH)
    if rule.stochastic:
        try:
            return Orders(weak=_weak(rule), strong=_strong(rule) if strong else None, levels=_at_levels(rule, 20))
        except NoLawError:
            return Orders()
    if isinstance(rule, samplers.AdaptiveSampler):
        return Orders({problem: _by_tolerance(rule, problem) for problem in FLOWS})
    if rule.nfe(order_grid(2)) is None:  # it chooses its steps, and no tolerance says how
        return Orders()
    path = {problem: _path(rule, problem) for problem in FLOWS}
    if not any(_falls_short(one, rule.order) for one in path.values()):
        return Orders(path)
    return Orders(path, {problem: _path(rule, problem, eased=True) for problem in FLOWS})


def judge(claimed: int, orders: Orders) -> Check:
    """Whether the orders are those claimed: no lower by more than `SHORT`."""
    if not orders.judged:
        return Check("order", None, "it chooses its steps, or is not linear: there is no order to measure")
    seen = ", ".join(f"{name} {one.text}" for name, one in orders.judged.items())
    if claimed <= 0:
        return Check("order", True, f"claims none, measured {seen}")
    ok = not any(_falls_short(one, claimed) for one in orders.judged.values())
    start = ", with its memory full" if orders.full else ""
    return Check("order", ok, f"claims {claimed}, measured {seen}{start}")


def _falls_short(one: Fit, claimed: int) -> bool:
    return not one.exact and not one.order >= claimed - SHORT


def _path(rule: samplers.Sampler, problem: str, eased: bool = False) -> Fit:
    """RMS distance to the exact flow; `eased` cuts up the first step, so that there is something to look back on."""
    errors = []
    for steps in STEPS:
        sigmas: Sequence[float] = order_grid(steps)
        errors.append(_distance(rule, problem, samplers.eased(sigmas) if eased else sigmas, steps)[0])
    return fit(STEPS, errors)


def _by_tolerance(rule: samplers.AdaptiveSampler, problem: str) -> Fit:
    """The same for a rule that chooses its steps, against the calls that finer tolerances cost."""
    errors, calls = zip(
        *(_distance(rule.with_tolerance(rtol), problem, order_grid(1), 1) for rtol in TOLERANCES), strict=True
    )
    return fit(calls, errors)


def _distance(rule: samplers.Sampler, problem: str, sigmas: Sequence[float], steps: int) -> tuple[float, int]:
    """RMS distance to the exact flow in deviations, over the stops that the last `steps` steps make; and the calls."""
    law, path, stops = FLOWS[problem], exact_path(problem), order_grid(STOPS)
    denoise, states = Counted(law.denoise), list[Tensor]()
    samplers.run(rule, denoise, path[0], sigmas, on_step=lambda _, x: states.append(x))
    count = min(STOPS, steps)
    made = states[-steps:][steps // count - 1 :: steps // count]
    gaps = [
        (x - exact).square().mean() / law.marginal_variance(sigma).mean()
        for x, exact, sigma in zip(made, path[-count:], stops[-count:], strict=True)
    ]
    return sqrt(float(sum(gaps)) / count), denoise.calls


def _weak(rule: samplers.Sampler) -> dict[str, Fit]:
    worst = [[max(errors) for errors in list(zip(*_at_levels(rule, steps), strict=True))[1:]] for steps in STEPS]
    means, variances = zip(*worst, strict=True)
    return {"mean": fit(STEPS, means), "variance": fit(STEPS, variances)}


def _at_levels(rule: samplers.Sampler, steps: int) -> tuple[tuple[float, float, float], ...]:
    """At every level the worst error of the mean, in deviations, and of the variance, relative."""
    sigmas = order_grid(steps)
    found = []
    for sigma, law in zip(sigmas[1:], laws(rule, GAUSSIAN, sigmas), strict=True):
        right = marginal(GAUSSIAN, sigma)
        mean = ((law.mean - right.mean).abs() / right.variance.sqrt()).max().item()
        found.append((sigma, mean, (law.variance / right.variance - 1).abs().max().item()))
    return tuple(found)


def _strong(rule: samplers.Sampler) -> Fit:
    """RMS distance between runs of few and of many steps on one Brownian path, on the Gaussian, exactly."""
    grids = [order_grid(steps) for steps in STRONG_STEPS]
    return fit(STRONG_STEPS, strong_errors(rule, GAUSSIAN, grids, order_grid(STRONG_LIMIT)))
