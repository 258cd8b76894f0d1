"""The exact law of a sampler's output on Gaussian data, computed without random draws.

For data N(μ, diag s²) the denoiser is affine in x. A non-adaptive sampler is linear in x, in D and in its noise, so its
result is an affine function of its start and its draws z_k:
    x_N = c + A x_start + Σ_k B_k z_k        ⇒        x_N ~ N(c + A m, A² v + Σ_k B_k²)    for x_start ~ N(m, diag v)

c, A and the B_k are read off by running the sampler on a batch. One image starts at m, one starts a standard deviation
above, and one image per draw gets a unit pulse in place of that draw. The dimensions are independent, as they are in D.

The distance between two such laws is the Wasserstein distance W₂, the Fréchet distance of Gaussians:
    W₂² = |m_1 − m_2|² + Σ (√v_1 − √v_2)²
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from samplers.base import Sampler, run
from samplers.brownian import increment
from samplers.denoiser import Unguided
from samplers.exact.problems import Gaussian

Number = tuple[object, ...]  # names one of the independent standard normals drawn in a run


@dataclass(frozen=True, eq=False)
class Law:
    """N(mean, diag variance), both in the shape of one image, float64."""

    mean: Tensor
    variance: Tensor

    def distance(self, other: Law) -> float:
        """W₂, the root of the Fréchet distance."""
        means = (self.mean - other.mean).square().sum()
        spreads = (self.variance.sqrt() - other.variance.sqrt()).square().sum()
        return sqrt(float(means + spreads))


class NoLawError(ValueError):
    """The sampler is not linear in its inputs, so its samples are not Gaussian."""


def marginal(problem: Gaussian, sigma: float) -> Law:
    """The exact law of x at level `sigma`."""
    return Law(problem.marginal_mean(sigma).clone(), problem.marginal_variance(sigma).clone())


def noise_at(problem: Gaussian, sigma: float) -> Law:
    """N(0, σ² I), the usual start, close to the marginal if σ is large compared with the data."""
    zero = torch.zeros_like(problem.marginal_mean(sigma))
    return Law(zero, torch.full_like(zero, sigma**2))


def law(
    sampler: Sampler, problem: Gaussian, sigmas: Sequence[float], start: Law | None = None, path: bool = False
) -> Law:
    """The law of `run(sampler, problem.denoise, x, sigmas, …)` for x ~ `start`; see `laws`."""
    return laws(sampler, problem, sigmas, start, path)[-1]


def laws(
    sampler: Sampler, problem: Gaussian, sigmas: Sequence[float], start: Law | None = None, path: bool = False
) -> list[Law]:
    """The law of x after every step.

    `start` is the exact marginal at sigmas[0] by default; `noise_at(…)` is the usual start. With `path` the noise comes
    from a Brownian path (`samplers.brownian_path`), otherwise every draw is fresh.

    Raises:
        NoLawError: the sampler is not linear, for example because its steps are adaptive.
    """
    found = _responses(sampler, problem, sigmas, start or marginal(problem, sigmas[0]), path)
    return [Law(x[0].clone(), (x[1:-1] - x[0]).square().sum(0)) for x in found.states]


def distance(sampler: Sampler, problem: Gaussian, sigmas: Sequence[float], start: Law | None = None) -> float:
    """W₂ between the law of a sampler on the grid `sigmas` and the exact law; see `laws`."""
    return law(sampler, problem, sigmas, start).distance(marginal(problem, sigmas[-1]))


def strong_errors(
    sampler: Sampler,
    problem: Gaussian,
    grids: Sequence[Sequence[float]],
    fine: Sequence[float],
    start: Law | None = None,
) -> list[float]:
    """√E|x_grid − x_fine|² at the end, all on one Brownian path: the error of the image, not of its law.

    Every grid must share the first and the last level of `fine`.

    Raises:
        NoLawError: the sampler is not linear.
    """
    begin = start or marginal(problem, fine[0])
    zero = torch.zeros_like(begin.mean)
    limit = _by_number(_responses(sampler, problem, fine, begin, path=True))

    def error(sigmas: Sequence[float]) -> float:
        ours = _by_number(_responses(sampler, problem, sigmas, begin, path=True))
        numbers = ours.keys() | limit.keys()
        return sqrt(sum(float((ours.get(n, zero) - limit.get(n, zero)).square().sum()) for n in numbers))

    return [error(sigmas) for sigmas in grids]


class _Responses(NamedTuple):
    """The batch (K + 3, …) after every step: the mean, a start one deviation above it, K pulses, and a check image."""

    states: list[Tensor]
    numbers: dict[Number, int]  # which pulse is which


def _responses(sampler: Sampler, problem: Gaussian, sigmas: Sequence[float], start: Law, path: bool) -> _Responses:
    if sampler.nfe(sigmas) is None:
        raise NoLawError(f"{sampler} is adaptive, so its samples have no closed-form law")
    denoise = Unguided(problem.denoise)
    shape = start.mean.shape
    counter = _Counter(path)
    run(sampler, denoise, start.mean.expand(1, *shape).clone(), sigmas, noise=counter)
    images = len(counter.numbers) + 3
    mix = torch.randn(images, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = start.mean.expand(images, *shape).clone()
    x[1] += start.variance.sqrt()
    x[-1] += mix[1] * start.variance.sqrt()
    states: list[Tensor] = []
    pulses = _Pulses(path, counter.numbers, mix)
    run(sampler, denoise, x, sigmas, noise=pulses, on_step=lambda _, state: states.append(state))
    for state in states:
        expected = state[0] + torch.tensordot(mix[1:-1], state[1:-1] - state[0], 1)
        if not torch.allclose(state[-1], expected, rtol=1e-7, atol=1e-7 * sigmas[0]):
            raise NoLawError(f"{sampler} is not linear in x and its noise, so its samples have no closed-form law")
    return _Responses(states, counter.numbers)


def _by_number(found: _Responses) -> dict[Number, Tensor]:
    end = found.states[-1]
    gains = {number: end[i + 2] - end[0] for number, i in found.numbers.items()}
    return {("mean",): end[0], ("start",): end[1] - end[0], **gains}


class _Draws(ABC):
    """Noise as a weighted sum of named independent normals: those of a Brownian path, or one per draw."""

    def __init__(self, path: bool) -> None:
        self._path, self._draws = path, 0

    def __call__(self, like: Tensor) -> Tensor:
        self._draws += 1
        return self._sum([(("draw", self._draws), 1.0)], like)

    def between(self, sigma: float, sigma_next: float, like: Tensor) -> Tensor:
        return self._sum(increment(sigma, sigma_next).items(), like) if self._path else self(like)

    @abstractmethod
    def _sum(self, weights: Iterable[tuple[Number, float]], like: Tensor) -> Tensor:
        """The weighted sum of the named normals."""


class _Counter(_Draws):
    """Records the names of the normals that a run draws, and returns zeros."""

    def __init__(self, path: bool) -> None:
        super().__init__(path)
        self.numbers: dict[Number, int] = {}

    def _sum(self, weights: Iterable[tuple[Number, float]], like: Tensor) -> Tensor:
        for number, _ in weights:
            self.numbers.setdefault(number, len(self.numbers))
        return torch.zeros_like(like)


class _Pulses(_Draws):
    """Each named normal becomes a unit pulse in one image. The last image gets all of them, weighted by `mix`."""

    def __init__(self, path: bool, numbers: dict[Number, int], mix: Tensor) -> None:
        super().__init__(path)
        self._numbers, self._mix = numbers, mix

    def _sum(self, weights: Iterable[tuple[Number, float]], like: Tensor) -> Tensor:
        images, heights = zip(*((self._numbers[number] + 2, weight) for number, weight in weights), strict=True)
        where, pulse = list(images), torch.tensor(heights, dtype=like.dtype)
        out = torch.zeros_like(like)
        out[where] = pulse.reshape(-1, *[1] * (like.ndim - 1))
        out[-1] = torch.dot(pulse, self._mix[where])
        return out
