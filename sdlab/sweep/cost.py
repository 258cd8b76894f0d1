"""What a sweep will cost: network passes, which are known exactly, and seconds, which are estimated from them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import samplers
from samplers.exact.reference import CONVERGING, fine_grid
from sdlab.denoiser import Sigma
from sdlab.guidance import Guided
from sdlab.pipeline import tail
from sdlab.sweep.axes import GRID, GUIDANCE, LEVELS, SAMPLER
from sdlab.sweep.cell import Cell, Choice
from sdlab.sweep.flow_ends import STEPS, shared, span
from sdlab.sweep.store import Row

if TYPE_CHECKING:
    from sdlab.sweep.plan import Plan  # which asks this file how many steps a budget buys

# Seconds a pass and image, until a run has measured it: on two CPU cores measured, else guessed.
ASSUMED = {
    "scenes": {"cpu": 0.002, "cuda": 0.0005, "mps": 0.002},
    "sd15": {"cpu": 3.0, "cuda": 0.03, "mps": 0.5},
}
_OWN = {"cpu": 1e-5, "cuda": 1e-5, "mps": 1e-5}  # a closed form


@dataclass(frozen=True)
class Estimate:
    """Network passes of each cell (an image), and the time of a pass with where that number is from."""

    passes: tuple[float, ...]
    images: int
    seconds_per_pass: float
    source: str

    def seconds(self, cells: Sequence[int] | None = None) -> float:
        """Of the cells with these indices, or of all."""
        chosen = range(len(self.passes)) if cells is None else cells
        return sum(self.passes[i] for i in chosen) * self.images * self.seconds_per_pass


def estimate(plan: Plan, rows: Sequence[Row] = ()) -> Estimate:
    """The cost of a plan; `rows` of earlier runs on this model, device and dtype give the time of a pass."""
    alike = ("model", "device", "dtype", "compile")
    like = [
        row.seconds_per_image / row.network_passes
        for row in rows
        if row.network_passes > 0 and all(row.provenance.get(key, False) == getattr(plan, key) for key in alike)
    ]
    passes = tuple(passes_an_image(plan, cell) for cell in plan.cells)
    if like:
        source = f"the median of {len(like)} cell{'s' * (len(like) > 1)} measured here before"
        return Estimate(passes, plan.images, statistics.median(like), source)
    kind = plan.device.partition(":")[0]
    guess = (_OWN if plan.own else ASSUMED.get(plan.model, ASSUMED["scenes"]))[kind]
    return Estimate(passes, plan.images, guess, f"assumed for {kind}; the first finished cell replaces it")


def passes_an_image(plan: Plan, cell: Cell) -> float:
    """How often the network sees an image of this plan, the mean of those that start from a picture and the others."""
    if cell.strength is None:
        return network_passes(cell, plan.levels)
    starts = [plan.starts_from_a_picture(i) for i in range(plan.images)]
    share = sum(starts) / len(starts)
    whole = network_passes(cell.model_copy(update={"strength": None})) if share < 1 else 0.0
    return share * network_passes(cell) + (1 - share) * whole


def network_passes(cell: Cell, levels: samplers.Levels = LEVELS) -> float:
    """How often the network sees an image in this cell: the cell itself, run on a single number and counted."""
    rule = SAMPLER.build(cell.sampler.name, **cell.sampler.options)
    return _passes(rule, cell.guidance, tail(_sigmas(cell, levels), 1.0 if cell.strength is None else cell.strength))


def reference_passes(plan: Plan, cells: Iterable[Cell]) -> float:
    """How often the network sees an image for what the reference errors of these cells are measured against."""
    own = plan.own_model
    if "reference_error" not in plan.metrics or (own is not None and own.flow is not None):
        return 0.0
    spans = [(cell.guidance, span(_sigmas(cell, plan.levels), plan.levels)) for cell in cells]
    once = {shared(rule, ends): (rule, ends) for rule, ends in spans}
    return sum(_passes(CONVERGING, rule, fine_grid(ends, STEPS)) for rule, ends in once.values())


def _sigmas(cell: Cell, levels: samplers.Levels) -> tuple[float, ...]:
    return GRID.build(cell.grid.name, steps=cell.steps, levels=levels, **cell.grid.options)


def _passes(rule: samplers.Sampler, choice: Choice, sigmas: Sequence[float]) -> float:
    strategy = GUIDANCE.build(choice.name, **choice.options)
    denoise = Guided(strategy, _unit_gaussian, {"cond": torch.ones(1, 1), "uncond": torch.zeros(1, 1)})
    samplers.run(rule, denoise, torch.full((1, 1), sigmas[0]), sigmas, noise=samplers.seeded([0]))
    return denoise.passes


def _unit_gaussian(x: Tensor, sigma: Sigma, context: Tensor) -> Tensor:
    """Exact for data of unit variance, so that an adaptive sampler meets a true flow."""
    return x / (1 + torch.as_tensor(sigma).view(-1, 1) ** 2)


def steps_within(budget: int, cell: Cell, levels: samplers.Levels = LEVELS) -> int:
    """The largest number of steps with which the cell takes no more than `budget` network passes an image.

    ValueError where there is none: the rule chooses its steps by what it sees, or one step costs more.
    """
    rule = SAMPLER.build(cell.sampler.name, **cell.sampler.options)
    for steps in range(budget, 0, -1):
        try:
            sigmas = _sigmas(cell.model_copy(update={"steps": steps}), levels)
        except ValueError:  # the grid cannot have as many
            continue
        calls = rule.nfe(sigmas)
        if calls is None:
            raise ValueError(f"{cell.sampler.label} chooses its calls by what it sees, no budget holds it; give steps")
        if calls <= budget and network_passes(cell.model_copy(update={"steps": steps}), levels) <= budget:
            return steps
    parts = " · ".join((cell.sampler.label, cell.grid.label, cell.guidance.label))
    raise ValueError(f"{parts} takes more than {budget} network pass{'es' * (budget != 1)} for any number of steps")
