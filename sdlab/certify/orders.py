"""Measured orders of convergence: of the path, of the law (weak), and on Brownian paths (strong).

Where the law of a stochastic sampler has no closed form, its samples tell whether it converges at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

import torch
from torch import Tensor

import samplers
from samplers.denoiser import Counted
from samplers.exact import NoLawError, laws, marginal, strong_errors
from sdlab.certify.checks import Check
from sdlab.certify.fit import Fit, fit
from sdlab.certify.problems import FLOWS, GAUSSIAN, LOW, STEEP, STOPS, TOP, exact_path, order_grid

STEPS = (64, 128, 256, 512)
STRONG_STEPS, STRONG_LIMIT = (16, 32, 64), 256
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6)
SHORT = 0.25  # tolerance of a measured order below the claimed one
STEEP_STEPS, STEEP_SAMPLES = 256, 8192
STEEP_ERROR = 0.05  # of mean and variance: 4.5 standard errors of so many samples
_SMOOTH = samplers.vp_levels()  # a table of levels has corners, which would limit a high order in its time


@dataclass(frozen=True)
class Orders:
    """The fitted orders by kind; a kind that does not apply is empty.

    `path` has one fit per problem, for a deterministic sampler. `full` is the same with a full memory from the start,
    measured if `path` falls short of the claim. `weak` is for a stochastic sampler on the Gaussian: the worst relative
    errors of mean and variance over all levels and dimensions. `strong` is the order of its images on Brownian paths.
    `levels` has the errors of `weak` at each level of 20 steps: (σ, mean, variance). `steep` is the worst error of mean
    and variance of a stochastic sampler's samples on the steep problem.
    """

    path: dict[str, Fit] = field(default_factory=dict)
    full: dict[str, Fit] = field(default_factory=dict)
    weak: dict[str, Fit] = field(default_factory=dict)
    strong: Fit | None = None
    levels: tuple[tuple[float, float, float], ...] = ()
    steep: float | None = None

    @property
    def judged(self) -> dict[str, Fit]:
        """The fits that the claim is compared with: the better of `path` and `full`, or those of the law."""
        return {**self.path, **{k: f for k, f in self.full.items() if not self.path[k].order > f.order}, **self.weak}

    @property
    def lowest(self) -> float:
        """The lowest measured order; nan if there is none."""
        return min((fit.order for fit in self.judged.values() if not math.isnan(fit.order)), default=math.nan)


def measure(sampler: samplers.Sampler, strong: bool = True) -> Orders:
    """All orders of a sampler; with `strong`, also the order on Brownian paths."""
    sampler = sampler.with_levels(_SMOOTH)
    if sampler.stochastic:
        steep = steep_error(sampler)
        try:
            return Orders(
                weak=_weak(sampler),
                strong=_strong(sampler) if strong else None,
                levels=_at_levels(sampler, 20),
                steep=steep,
            )
        except NoLawError:
            return Orders(steep=steep)
    if isinstance(sampler, samplers.AdaptiveSampler):
        return Orders({problem: _by_tolerance(sampler, problem) for problem in FLOWS})
    if sampler.nfe(order_grid(2)) is None:  # adaptive, but without a tolerance to set
        return Orders()
    path = {problem: _path(sampler, problem) for problem in FLOWS}
    if not any(_falls_short(one, sampler.order) for one in path.values()):
        return Orders(path)
    return Orders(path, {problem: _path(sampler, problem, eased=True) for problem in FLOWS})


def judge(claimed: int, orders: Orders) -> Check:
    """Whether the measured orders are at least the claimed one less `SHORT`."""
    if not orders.judged:
        return Check("order", None, "not measured: the sampler is adaptive without a tolerance, or not linear")
    seen = ", ".join(f"{name} {one.text}" for name, one in orders.judged.items())
    if claimed <= 0:
        return Check("order", True, f"claims none, measured {seen}")
    ok = not any(_falls_short(one, claimed) for one in orders.judged.values())
    start = ", with full memory" if orders.full else ""
    return Check("order", ok, f"claims {claimed}, measured {seen}{start}")


def judge_steep(claimed: int, error: float) -> Check:
    """Whether the samples of a stochastic sampler that claims an order have the law of the steep problem."""
    seen = f"mean and variance are off by {error:.1%} at {STEEP_STEPS} steps"
    if claimed <= 0:
        return Check("steep", True, f"claims no order, {seen}")
    return Check("steep", error <= STEEP_ERROR, f"claims order {claimed}, {seen}")


def _falls_short(one: Fit, claimed: int) -> bool:
    return not one.exact and not one.order >= claimed - SHORT


def _path(sampler: samplers.Sampler, problem: str, eased: bool = False) -> Fit:
    """RMS distance to the exact flow. `eased` splits the first step, which fills the memory."""
    errors = []
    for steps in STEPS:
        sigmas: Sequence[float] = order_grid(steps)
        errors.append(_distance(sampler, problem, samplers.eased(sigmas) if eased else sigmas, steps)[0])
    return fit(STEPS, errors)


def _by_tolerance(sampler: samplers.AdaptiveSampler, problem: str) -> Fit:
    """The same for an adaptive sampler, against the number of calls at finer tolerances."""
    errors, calls = zip(
        *(_distance(sampler.with_tolerance(rtol), problem, order_grid(1), 1) for rtol in TOLERANCES), strict=True
    )
    return fit(calls, errors)


def _distance(sampler: samplers.Sampler, problem: str, sigmas: Sequence[float], steps: int) -> tuple[float, int]:
    """RMS distance to the exact flow over the last `steps` steps, in standard deviations, and the number of calls."""
    law, path, stops = FLOWS[problem], exact_path(problem), order_grid(STOPS)
    denoise, states = Counted(law.denoise), list[Tensor]()
    samplers.run(sampler, denoise, path[0], sigmas, on_step=lambda _, x: states.append(x))
    count = min(STOPS, steps)
    made = states[-steps:][steps // count - 1 :: steps // count]
    gaps = [
        (x - exact).square().mean() / law.marginal_variance(sigma).mean()
        for x, exact, sigma in zip(made, path[-count:], stops[-count:], strict=True)
    ]
    return sqrt(float(sum(gaps)) / count), denoise.calls


def _weak(sampler: samplers.Sampler) -> dict[str, Fit]:
    worst = [[max(errors) for errors in list(zip(*_at_levels(sampler, steps), strict=True))[1:]] for steps in STEPS]
    means, variances = zip(*worst, strict=True)
    return {"mean": fit(STEPS, means), "variance": fit(STEPS, variances)}


def _at_levels(sampler: samplers.Sampler, steps: int) -> tuple[tuple[float, float, float], ...]:
    """The worst errors at every level: of the mean in standard deviations, and of the variance, relative."""
    sigmas = order_grid(steps)
    found = []
    for sigma, law in zip(sigmas[1:], laws(sampler, GAUSSIAN, sigmas), strict=True):
        right = marginal(GAUSSIAN, sigma)
        mean = ((law.mean - right.mean).abs() / right.variance.sqrt()).max().item()
        found.append((sigma, mean, (law.variance / right.variance - 1).abs().max().item()))
    return tuple(found)


def steep_error(sampler: samplers.Sampler) -> float:
    """The worst error of mean, in standard deviations, and variance, relative, of samples on the steep problem."""
    generator = torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    x = STEEP.sample(STEEP_SAMPLES, generator, torch.float64)
    x = x + TOP * noise(x)
    end = samplers.run(sampler, Counted(STEEP.denoise), x, order_grid(STEEP_STEPS), noise)
    variance = STEEP.marginal_variance(LOW)
    mean_error = (end.mean(0) - STEEP.marginal_mean(LOW)).abs() / variance.sqrt()
    return float(torch.cat([mean_error, (end.var(0) / variance - 1).abs()]).max())


def _strong(sampler: samplers.Sampler) -> Fit:
    """RMS distance between runs of few and of many steps on one Brownian path, on the Gaussian, exactly."""
    grids = [order_grid(steps) for steps in STRONG_STEPS]
    return fit(STRONG_STEPS, strong_errors(sampler, GAUSSIAN, grids, order_grid(STRONG_LIMIT)))
