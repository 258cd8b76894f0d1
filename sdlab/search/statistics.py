"""Empirical statistics of a model, measured along its own paths for DPM-Solver-v3."""

from __future__ import annotations

import samplers
from samplers.model_statistics import ModelStatistics, measuring
from sdlab.plugins import Boundary
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.cell import Cell
from sdlab.sweep.progress import SweepProgress


def fine_levels(count: int, levels: samplers.Levels) -> tuple[float, ...]:
    """The levels at which is measured, even in log σ, and 0."""
    return samplers.grid("exponential", steps=count, levels=levels)


def measure(
    bench: ModelBench, like: Cell, count: int, origin: dict[str, str], progress: SweepProgress
) -> ModelStatistics:
    """The statistics at so many levels for the model and the guidance of a cell, over all images of the plan.

    Raises:
        CodeError: the model or the guidance failed, or a value is not finite.
    """
    fine, measured, done = fine_levels(count, bench.backend.levels), measuring(), 0
    total = count * -(-bench.plan.images // bench.plan.batch)

    def on_step() -> None:
        nonlocal done
        done += 1
        progress.update(done / total)

    boundary = Boundary()
    progress.begin(f"{count} levels")
    with boundary.crossed():
        for _ in bench.flow_ends.runs(like.guidance, fine, lambda: measured, boundary.back(on_step)):
            pass
        statistics = measured.statistics(origin)
    progress.end(f"statistics of {bench.plan.images} images at {count} levels")
    return statistics
