"""Grids fitted to a model: from states and predictions along its own paths, stored once on fine levels.

Two ways to choose K of M fine levels. `by_dynamic_programming` minimises the sum of the errors of single steps, each of
which is known from the stored paths. `by_truncation_error` spreads the leading error term of a method of some order
evenly over its steps. Both choose the level of the last step, which goes to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler
from samplers.dpm_solver import DPMpp3M

FOLLOWING = DPMpp3M()  # one call per step, at the state that is kept
_CONSTANTS = (1 / 2, 5 / 12, 3 / 8)  # of the leading error of Adams–Bashforth methods of order 1, 2 and 3


@dataclass(frozen=True)
class Paths:
    """States x (M, N, …) and predictions D(x, σ) (M, N, …) of N images at M falling levels above 0.

    The paths end at 0 with the last prediction, as all samplers do after their lowest level.
    """

    sigmas: tuple[float, ...]
    states: Tensor
    predictions: Tensor

    def __post_init__(self) -> None:
        """Check the shapes and the levels.

        Raises:
            ValueError: they differ in length, or the levels do not fall strictly to above 0.
        """
        if not len(self.sigmas) == len(self.states) == len(self.predictions) >= 2:
            raise ValueError("paths need at least 2 levels, with a state and a prediction for each")
        if not (self.sigmas[-1] > 0 and all(a > b for a, b in pairwise(self.sigmas))):
            raise ValueError(f"the levels of paths must fall strictly and stay above 0, got {list(self.sigmas)}")


@dataclass(frozen=True)
class Recording(Sampler):
    """A sampler that takes the steps of another, one call per step, and keeps the states and predictions before 0."""

    sampler: Sampler
    kept: dict[float, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False)

    @property
    def order(self) -> int:
        """That of the other sampler."""
        return self.sampler.order

    def prepare(self, sigmas: tuple[float, ...]) -> Any:
        """The memory of the other sampler."""
        return self.sampler.prepare(sigmas)

    def with_levels(self, levels: Any) -> Sampler:
        """The same recording of the other sampler with these levels."""
        return replace(self, sampler=self.sampler.with_levels(levels))

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Any, noise: Noise
    ) -> tuple[Tensor, Any]:
        """x at `sigma` -> x at `sigma_next`."""

        def recorded(state: Tensor, level: Any) -> Tensor:
            prediction = denoise(state, level)
            self.kept.setdefault(sigma, (state.cpu(), prediction.cpu()))
            return prediction

        return self.sampler.step(recorded, x, sigma, sigma_next, memory, noise)

    def paths(self, sigmas: Sequence[float]) -> Paths:
        """What was recorded at these levels."""
        states, predictions = zip(*(self.kept[sigma] for sigma in sigmas), strict=True)
        return Paths(tuple(sigmas), torch.stack(states), torch.stack(predictions))


def joined(parts: Sequence[Paths]) -> Paths:
    """The paths of several batches on the same levels as those of one."""
    states, predictions = ([getattr(part, name) for part in parts] for name in ("states", "predictions"))
    return Paths(parts[0].sigmas, torch.cat(states, dim=1), torch.cat(predictions, dim=1))


def step_errors(paths: Paths) -> NDArray[np.float64]:
    """The error of one Euler step between any two levels, (M, M + 1): the RMS distance to the state there.

    Entry (i, j) is that of the step from level i to level j along the stored direction at i, the mean over images. The
    last column is the step to 0. Steps upwards are infinite.
    """
    sigmas = [*paths.sigmas, 0.0]
    ends = [*paths.states, paths.predictions[-1]]
    errors = np.full((len(sigmas) - 1, len(sigmas)), np.inf)
    for i, (x, prediction) in enumerate(zip(paths.states, paths.predictions, strict=True)):
        slope = (x.double() - prediction.double()) / sigmas[i]
        for j in range(i + 1, len(sigmas)):
            errors[i, j] = _rms(x.double() + (sigmas[j] - sigmas[i]) * slope - ends[j].double())
    return errors


def by_dynamic_programming(errors: NDArray[np.float64], steps: int, coefficient: float = 1.0) -> tuple[int, ...]:
    """The levels of the path from level 0 to the last column in `steps` steps with the smallest weighted sum of errors.

    V_k(i) = min_j e(i, j) + c V_{k−1}(j), where V_0 is 0 at the end alone. With a `coefficient` c above 1 the errors of
    later steps count more. Returns the indices of the levels from which steps start. (Chen et al. 2024,
    arXiv:2405.11326, geometry-inspired time schedules)

    Raises:
        ValueError: there are fewer levels than steps.
    """
    count = len(errors)
    _check(steps, count)
    best, choices = errors[:, -1], list[NDArray[np.intp]]()
    for _ in range(steps - 1):
        sums = errors[:, :count] + coefficient * best
        choices.append(sums.argmin(1))
        best = sums.min(1)
    found = [0]
    for choice in reversed(choices):
        found.append(int(choice[found[-1]]))
    return tuple(found)


def by_truncation_error(paths: Paths, steps: int, order: int) -> tuple[float, ...]:
    """Levels at which the leading error of each step of a method of this order is the same.

    In λ = −log σ the flow is dx/dλ = D − x, and a step h of a method of order p errs by c_p h^{p+1} |D^{(p)}(λ)|. Equal
    errors follow from a density of steps in proportion to |D^{(p)}|^{1/(p+1)}. The lowest level is the one with the
    smallest sum of these errors and of the error of the last step, to 0.

    Args:
        paths: on levels even in log σ.
        steps: the number of levels to choose.
        order: 1 to 3; that of the sampler.

    Raises:
        ValueError: there are fewer fine levels than steps, the levels are uneven, or the order is another.
    """
    _check(steps, len(paths.sigmas))
    if not 1 <= order <= len(_CONSTANTS):
        raise ValueError(f"order must be from 1 to {len(_CONSTANTS)}, got {order}")
    places = np.array([-log(sigma) for sigma in paths.sigmas])
    gaps = np.diff(places)
    if not np.allclose(gaps, gaps.mean(), rtol=1e-6):
        raise ValueError("the truncation error needs paths on levels that are even in log sigma")
    last = np.array([_rms((x - paths.predictions[-1]).double()) for x in paths.predictions])
    if steps == 1:
        return (paths.sigmas[0],)
    slopes = torch.diff(paths.predictions.double(), n=order, dim=0) / gaps.mean() ** order
    middles = places[: len(slopes)] + order * gaps.mean() / 2
    density = np.interp(places, middles, [_rms(one) ** (1 / (order + 1)) for one in slopes])
    covered = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * gaps)])
    inner = (steps - 1) * _CONSTANTS[order - 1] * (covered / (steps - 1)) ** (order + 1)
    end = steps - 1 + int(np.argmin((inner + last)[steps - 1 :]))
    shares = np.linspace(0, covered[end], steps)
    found = np.exp(-np.interp(shares, covered[: end + 1], places[: end + 1]))
    return (paths.sigmas[0], *map(float, found[1:]))


def _rms(difference: Tensor) -> float:
    """The root-mean-square of each image (N, …), and its mean over images."""
    return float(difference.flatten(1).square().mean(1).sqrt().mean())


def _check(steps: int, count: int) -> None:
    if not 1 <= steps <= count:
        raise ValueError(f"steps must be from 1 to the number of fine levels, {count}, got {steps}")
