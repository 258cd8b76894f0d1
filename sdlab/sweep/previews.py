"""Previews: the denoiser's estimates x̂₀ of one image at a few noise levels of its path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdlab.denoiser import Sigma

COUNT = 8  # levels of a path at most, beside its end
SIDE = 96  # pixels per side at most
_SAME = 1 + 1e-6


@dataclass(frozen=True)
class Previews:
    """Pictures (K, H, W, 3) of x̂₀ at K falling levels. The last picture is the image itself, at the level of its end.

    Raises:
        ValueError: the numbers of levels and pictures differ.
    """

    levels: tuple[float, ...] = ()
    pictures: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 1, 1, 3), np.uint8))

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.pictures):
            raise ValueError(f"{len(self.levels)} levels for {len(self.pictures)} pictures")


class Estimates:
    """Keeps the estimates x̂₀ of the first row at a few levels of a grid, for previews.

    The levels are spread evenly over the steps. Of each, the first estimate at it or below is kept: a sampler that adds
    noise before its step estimates x̂₀ elsewhere.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        """`sigmas` is the grid of the run."""
        steps = len(sigmas) - 1
        chosen = np.unique(np.linspace(0, steps - 1, COUNT).round().astype(int)) if steps else ()
        self._targets = [sigmas[i] for i in chosen]
        self.found: list[tuple[float, Tensor]] = []  # levels and estimates (1, …)

    def add(self, x0: Tensor, sigma: Sigma) -> None:
        """The `on_denoised` of a run."""
        if not self._targets:
            return
        level = float(sigma[0]) if isinstance(sigma, Tensor) else sigma
        if level <= self._targets[0] * _SAME:
            while self._targets and level <= self._targets[0] * _SAME:
                del self._targets[0]
            self.found.append((level, x0[:1].clone()))
