"""Grids for one model and one sampler, from the model's own paths: candidates, and the choice among them.

The paths of the first half of the images are stored once on fine levels. Candidates follow from them without further
network passes (`samplers.grids.fitted`). The sampler itself then tries each on the same images, and the best of each
kind is measured on the second half, beside grids that do not know the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import samplers
from samplers.grids.fitted import Paths, by_dynamic_programming, by_truncation_error, step_errors
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.cell import Cell, Choice
from sdlab.sweep.progress import SweepProgress
from sdlab.sweep.results import CellFailed

LEVELS = 60  # fine levels, at least
STANDARD = ("exponential", "karras", "trailing")  # what found grids are compared with
COEFFICIENTS = (0.9, 1.0, 1.1, 1.2)  # around 1, as in the paper, since the best one depends on sampler and steps
ORDERS = (1, 2, 3)
_DIGITS = 5  # of a level


@dataclass(frozen=True)
class Found:
    """A grid, the method that it is from, and its error on the images that it was chosen by."""

    method: str
    cell: Cell
    error: float

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Its levels above 0."""
        return tuple(self.cell.grid.options["sigmas"])


def fine_levels(steps: int, levels: samplers.Levels) -> tuple[float, ...]:
    """The levels of the stored paths, even in log σ, and 0: four for every step, and at least 60."""
    return samplers.grid("exponential", steps=max(LEVELS, 4 * steps), levels=levels)


def candidates(paths: Paths, steps: int) -> Iterator[tuple[str, tuple[float, ...]]]:
    """The grids of so many steps that both methods propose, each with the name of its method."""
    errors = step_errors(paths)
    for coefficient in COEFFICIENTS:
        chosen = by_dynamic_programming(errors, steps, coefficient)
        yield "dynamic programming", tuple(paths.sigmas[i] for i in chosen)
    for order in ORDERS:
        yield "truncation error", by_truncation_error(paths, steps, order)


def find_grids(bench: ModelBench, like: Cell, progress: SweepProgress) -> list[Found]:
    """The best grid of each method for the sampler, guidance and steps of a cell, by the reference error.

    Raises:
        CellFailed: no candidate has values.
    """
    levels = bench.backend.levels
    fine = fine_levels(like.steps, levels)
    progress.begin(f"paths on {len(fine) - 1} levels")
    paths = bench.flow_ends.paths(like.guidance, fine)
    progress.end(f"paths of {bench.plan.images} images on {len(fine) - 1} levels")
    best: dict[str, Found] = {}
    tried: dict[tuple[float, ...], float] = {}
    for method, sigmas in candidates(paths, like.steps):
        rounded = (sigmas[0], *(float(f"{sigma:.{_DIGITS}g}") for sigma in sigmas[1:]))
        cell = like.model_copy(update={"grid": Choice(name="explicit", options={"sigmas": rounded})})
        progress.begin(method)
        if rounded not in tried:
            tried[rounded] = _error(bench, cell, progress)
        found = Found(method, cell, tried[rounded])
        progress.end(f"{method:<20} {found.error:.4g}  {' '.join(f'{sigma:.4g}' for sigma in rounded)}")
        if method not in best or found.error < best[method].error:
            best[method] = found
    return sorted(best.values(), key=lambda one: one.error)


def _error(bench: ModelBench, cell: Cell, progress: SweepProgress) -> float:
    """The reference error of a cell, infinite if it has none."""
    sigmas = cell.grid.options["sigmas"]
    if not all(a > b for a, b in pairwise(sigmas)):
        return float("inf")
    try:
        return bench.run(cell, progress.update, range(bench.plan.images)).metrics["reference_error"]
    except CellFailed:
        return float("inf")


def passes(steps: int, levels: samplers.Levels, cell_passes: float) -> list[float]:
    """The network passes of the paths and of each candidate, for the progress bar."""
    fine = len(fine_levels(steps, levels)) - 1
    return [float(fine), *[cell_passes] * (len(COEFFICIENTS) + len(ORDERS))]
