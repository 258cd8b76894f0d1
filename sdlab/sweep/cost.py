"""The estimated time of a sweep, from its network passes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdlab.sweep.passes import counted
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row


@dataclass(frozen=True)
class Estimate:
    """Network passes per image of each cell, and the time of one pass with the source of that value."""

    passes: tuple[float, ...]  # NaN for a cell that cannot run
    problems: tuple[str, ...]  # the reason; empty for cells that can run
    seconds_per_pass: float
    source: str

    def total(self, images: Mapping[int, int]) -> float:
        """Network passes of so many images of the cells with these indices. Cells that cannot run are left out."""
        return sum(self.passes[i] * count for i, count in images.items() if not self.problems[i])

    def seconds(self, images: Mapping[int, int]) -> float:
        """Their time."""
        return self.total(images) * self.seconds_per_pass


def estimate(plan: Plan, rows: Sequence[Row] = ()) -> Estimate:
    """The cost of a plan. The time of a pass is taken from `rows` of earlier runs on this model, device and dtype."""
    alike = ("model", "device", "dtype", "compile")
    like = [
        row.seconds_per_image / row.network_passes
        for row in rows
        if row.network_passes > 0 and all(row.provenance.get(key, False) == getattr(plan, key) for key in alike)
    ]
    found = [counted(plan, cell) for cell in plan.cells]
    passes, problems = tuple(count for count, _ in found), tuple(problem for _, problem in found)
    if like:
        source = f"the median of {len(like)} cell{'s' * (len(like) > 1)} measured here before"
        return Estimate(passes, problems, statistics.median(like), source)
    kind = plan.device.partition(":")[0]
    seconds = plan.opened.seconds_per_pass[kind]
    return Estimate(passes, problems, seconds, f"assumed for {kind} until the first cell is measured")
