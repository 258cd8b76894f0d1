"""Affine strategies on Gaussians: the law of the guided flow in closed form, for every deterministic sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from itertools import pairwise
from math import isclose, log, sqrt
from zlib import crc32

import torch
from torch import Tensor

import samplers
from samplers.exact import eased
from samplers.exact.guided import GuidedGaussian
from samplers.exact.problems import Gaussian
from sdlab.certify.checks import Broken
from sdlab.certify.fit import Fit, fit
from sdlab.certify.orders import SHORT, TOLERANCES
from sdlab.certify.problems import LOW, TOP
from sdlab.denoiser import Sigma
from sdlab.guidance import Guided, Query, Strategy
from sdlab.guidance.base import Level, Stated, queries_of
from sdlab.guidance.needs import needed

SCALES = (0.5,)  # beside the default
_STEPS = (128, 256)
# Times hᵖ, with h the step in log σ. So small an error at order p is still a sum of several orders: dpm_3m has 0.43 %
# of h³ and a measured order of 2.72. No other sampler needs this.
_TINY = 5e-3
_SMOOTH = samplers.vp_levels()
# Of the class, of all data, and of a weaker condition, in three dimensions: narrower, shifted, and both.
_LAWS = {
    "cond": ((0.8, 0.3, -0.5), (0.5, 1.0, 0.4)),
    "uncond": ((-0.2, 0.0, 0.6), (1.4, 1.0, 0.9)),
    "image": ((0.3, 0.2, 0.0), (0.8, 1.0, 0.6)),
}
_OTHER_LAW = ((0.4, -0.6, 0.1), (0.7, 0.8, 1.1))  # of other contexts
_WIDENED = 1.25  # std of a perturbed prediction, and of a further network


def affine_flow(strategy: Strategy, names: Sequence[str] | None = None) -> str | None:
    """Hold an affine strategy to the closed form of its flow at several scales, with every deterministic sampler.

    A sampler must converge to it at the order p that it claims, or have an error below 0.5 % of hᵖ. Where the weights
    of the strategy jump between levels, p is 1. Strategies that are not affine, use another label, another input or a
    loss, or add noise to contexts have no such flow.
    """
    if not isinstance(strategy, Stated) or strategy.space != "any" or not _affine(strategy):
        return None
    names = list(deterministic()) if names is None else names
    worst = 0.0
    for one in _at_scales(strategy):
        edges = _edges(one)
        if edges is None:
            return None
        x, end = _start(), _exact(one, edges)
        for name in names:
            sampler = samplers.make(name).with_levels(_SMOOTH)
            found = _fit(one, sampler, edges, x, end)
            claimed = sampler.order if len(edges) == 2 else min(sampler.order, 1)
            fine = found.errors[-1] < _TINY * (log(TOP / LOW) / _STEPS[-1]) ** claimed
            if not (found.exact or fine or found.order >= claimed - SHORT):
                raise Broken(f"{one}: {name} claims order {claimed} and converges to its closed form at {found.text}")
            worst = max(worst, found.errors[-1])
    count = f"{len(names)} sampler{'s' * (len(names) != 1)}"
    return f"its closed form, with {count}; error at most {worst:.2g} after {_STEPS[-1]} steps"


@cache
def deterministic() -> tuple[str, ...]:
    """The deterministic samplers that follow the guided flow; those of CFG++ follow another one."""
    made = {name: samplers.make(name) for name in samplers.SAMPLERS}
    return tuple(k for k, one in made.items() if not one.stochastic and type(one).__module__ != "samplers.cfg_pp")


def _at_scales(strategy: Strategy) -> list[Strategy]:
    """The strategy at its defaults, and at other scales if it has one."""
    has_scale = is_dataclass(strategy) and "scale" in {field.name for field in fields(strategy)}
    others = [replace(strategy, scale=scale) for scale in SCALES] if has_scale else []  # type: ignore[type-var]
    return [strategy, *others]


def _law(query: Query) -> Gaussian:
    """The Gaussian whose denoiser answers a query."""
    mean, std = _LAWS.get(query.context, _OTHER_LAW)
    if query.prompt is not None:
        mean, std = (crc32(query.prompt.encode()) / 2**32, -0.6, 0.1), _OTHER_LAW[1]  # each prompt has its own
    wide = _WIDENED if query.perturbation is not None or query.network is not None else 1.0
    return Gaussian(wide * torch.tensor(std, dtype=torch.float64), torch.tensor(mean, dtype=torch.float64))


def _model(
    x: Tensor,
    sigma: Sigma,
    context: Tensor,
    perturbation: Sequence[object] = (),
    negative: Tensor | None = None,
    network: str | None = None,
) -> Tensor:
    """The denoisers of these Gaussians. A context has mean and standard deviation."""
    mean, std = context.chunk(2, dim=1)
    changed = [one is not None or network is not None for one in perturbation or [None] * len(x)]
    std = std * torch.tensor([[_WIDENED if one else 1.0] for one in changed], dtype=x.dtype)
    noise = (sigma.view(-1, 1) if isinstance(sigma, Tensor) else sigma) ** 2
    return (noise * mean + std**2 * x) / (std**2 + noise)


def _affine(strategy: Strategy) -> bool:
    """Whether `combine` is a weighted sum of predictions, at one level and for x = 0."""
    weights = _weights(strategy, 1.0)
    parts = torch.randn(len(weights), 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, _ = strategy.combine(tuple(parts), torch.zeros_like(parts[0]), Level(1.0), None)
    return torch.allclose(found, torch.einsum("qbd,q->bd", parts, parts.new_tensor(list(weights.values()))))


def _weights(strategy: Strategy, sigma: float) -> dict[Query, float]:
    """The weight of each prediction at this level: what `combine` makes of a prediction of 1 beside those of 0."""
    queries = queries_of(strategy, Level(sigma), None)
    count = len(queries)
    units = tuple(torch.eye(count, dtype=torch.float64)[k].view(-1, 1) for k in range(count))
    x0, _ = strategy.combine(units, torch.zeros(count, 1, dtype=torch.float64), Level(sigma), None)
    return dict(zip(queries, x0.flatten().tolist(), strict=True))


def _guided_law(strategy: Strategy, sigma: float) -> GuidedGaussian:
    """The weighted sum of denoisers at this level."""
    weights = _weights(strategy, sigma)
    return GuidedGaussian(tuple(map(_law, weights)), tuple(weights.values()))


def _edges(strategy: Strategy) -> list[float] | None:
    """The levels between which the weights are constant, from `TOP` to `LOW`; None if they are not, or not Gaussian."""
    levels = samplers.grid(
        "exponential", steps=48, levels=samplers.continuous_levels(LOW, TOP), ending="stop_at_sigma_min"
    )
    queries = needed(strategy, levels)
    if any(changed is not None for q in queries for changed in (q.label, q.noise, q.input, q.loss)):
        return None
    edges = [TOP]
    for high, low in pairwise(levels):
        if not _alike(strategy, high, low):
            edges.append(_jump(strategy, high, low))
            if not _alike(strategy, high, edges[-1] * (1 + 1e-9)):
                return None
    return [*edges, LOW]


def _alike(strategy: Strategy, a: float, b: float) -> bool:
    """Whether the flow has the same weights at two levels."""
    x = torch.eye(3, dtype=torch.float64)
    return bool(torch.equal(*(_guided_law(strategy, s).denoise(x, 1.0) for s in (a, b))))


def _jump(strategy: Strategy, high: float, low: float) -> float:
    """Where the weights change between two levels, by bisection to rounding."""
    at_high = high
    while not isclose(high, low, rel_tol=1e-13):
        middle = sqrt(high * low)
        high, low = (middle, low) if _alike(strategy, at_high, middle) else (high, middle)
    return low


def _start() -> Tensor:
    """A mean and a point one standard deviation above: as all is affine, they carry the law."""
    law = _law(Query("cond"))
    mean = law.marginal_mean(TOP)
    return torch.stack([mean, mean + law.marginal_variance(TOP).sqrt()])


def _exact(strategy: Strategy, edges: Sequence[float]) -> Tensor:
    x = _start()
    for high, low in pairwise(edges):
        x = _guided_law(strategy, sqrt(high * low)).flow(x, high, low)
    return x


def _fit(strategy: Strategy, sampler: samplers.Sampler, edges: Sequence[float], x: Tensor, end: Tensor) -> Fit:
    """The order of convergence to the closed form, of mean and standard deviation."""
    names = dict.fromkeys(["cond", "uncond", *(q.context for q in needed(strategy, edges))])
    contexts = {name: _context(_law(Query(name))) for name in names}

    def error(sampler: samplers.Sampler, sigmas: Sequence[float]) -> tuple[float, int]:
        alike = {name: one.expand(len(x), -1) for name, one in contexts.items()}
        seeds = range(len(x))
        denoise = Guided(strategy, _model, alike, seeds, lambda prompts: _context(_law(Query(prompt=prompts[0]))))
        calls = _Calls(denoise)
        found = samplers.run(sampler, calls, x, sigmas)
        return float((found - end).square().mean().sqrt() / end[1].sub(end[0]).square().mean().sqrt()), calls.count

    if isinstance(sampler, samplers.AdaptiveSampler):
        errors, costs = zip(*(error(sampler.with_tolerance(rtol), edges) for rtol in TOLERANCES), strict=True)
        return fit(costs, errors)
    return fit(_STEPS, [error(sampler, eased(_grid(edges, steps)))[0] for steps in _STEPS])


def _context(law: Gaussian) -> Tensor:
    """The context of a Gaussian in `_model`, (1, 6)."""
    return torch.cat([law.marginal_mean(0.0), law.marginal_variance(0.0).sqrt()])[None]


class _Calls:
    """A guided denoiser whose calls are counted."""

    def __init__(self, denoise: Guided) -> None:
        self._denoise, self.count = denoise, 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.count += 1
        return self._denoise(x, sigma)


def _grid(edges: Sequence[float], steps: int) -> list[float]:
    """About `steps` steps through all edges, even in log σ between them."""
    whole, sigmas = log(edges[0] / edges[-1]), [edges[0]]
    for high, low in pairwise(edges):
        count = max(1, round(steps * log(high / low) / whole))
        sigmas += [high * (low / high) ** (i / count) for i in range(1, count)] + [low]
    return sigmas
