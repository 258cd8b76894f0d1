"""Network passes per image of a cell, counted exactly by running the cell on a scalar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from math import ceil, nan
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import samplers
from samplers.exact.reference import CONVERGING, fine_grid
from sdlab.backends.inversion import round_trip
from sdlab.denoiser import Sigma
from sdlab.guidance import Guided
from sdlab.guidance.stand_in import stand_in
from sdlab.metrics.round_trip import RoundTripMetric
from sdlab.pipeline import tail
from sdlab.plugins import Boundary, CodeError
from sdlab.sweep.axes import GUIDANCE, SAMPLER, grids
from sdlab.sweep.cell import Cell, Choice
from sdlab.sweep.flow_ends import shared, span

REFERENCE = "reference_error"  # the metric for which the flow is computed

if TYPE_CHECKING:
    from sdlab.sweep.plan import Plan  # which imports this module


def counted(plan: Plan, cell: Cell) -> tuple[float, str]:
    """Network passes per image of this plan, or NaN and the reason why the cell cannot run."""
    try:
        with Boundary().crossed():
            return passes_per_image(plan, cell), ""
    except CodeError as error:
        return nan, str(error)


def passes_per_image(plan: Plan, cell: Cell) -> float:
    """Network passes per image of this plan, averaged over images with and without an input picture.

    Errors of the cell's sampler, grid or guidance strategy are passed on.
    """
    levels = plan.opened.levels
    if cell.strength is None:
        return network_passes(cell, levels)
    starts = [plan.starts_from_a_picture(i) for i in range(plan.images)]
    share = sum(starts) / len(starts)
    whole = network_passes(cell.model_copy(update={"strength": None}), levels) if share < 1 else 0.0
    return share * network_passes(cell, levels) + (1 - share) * whole


def network_passes(cell: Cell, levels: samplers.Levels) -> float:
    """Network passes per image in this cell, on a model with this noise schedule."""
    sampler = SAMPLER.build(cell.sampler.name, **cell.sampler.options)
    return _passes(sampler, cell.guidance, sigmas_of(cell, levels))


def sigmas_of(cell: Cell, levels: samplers.Levels) -> tuple[float, ...]:
    """The part of a cell's grid that is run.

    Raises:
        ValueError: the strength is less than one step.
    """
    return tail(_sigmas(cell, levels), 1.0 if cell.strength is None else cell.strength)


def reference_passes(plan: Plan, cells: Iterable[Cell]) -> float:
    """Network passes per image of the reference runs for the reference errors of these cells."""
    if REFERENCE not in plan.metrics or plan.opened.knows_flow:
        return 0.0
    levels = plan.opened.levels
    spans = [(cell.guidance, span(_sigmas(cell, levels), levels)) for cell in cells]
    once = {shared(guidance, ends): (guidance, ends) for guidance, ends in spans}
    return sum(_passes(CONVERGING, guidance, fine_grid(ends, plan.reference_steps)) for guidance, ends in once.values())


def round_trip_passes(plan: Plan, cell: Cell) -> float:
    """Network passes per image of the round trips that the metrics of this plan make in a cell."""
    trips = [metric for metric in plan.measures if isinstance(metric, RoundTripMetric)]
    if not trips:
        return 0.0
    sampler, sigmas = SAMPLER.build(cell.sampler.name, **cell.sampler.options), _sigmas(cell, plan.opened.levels)
    back = (round_trip(sampler, torch.zeros(1, 1, 1, 1), sigmas, metric.keeps_memory) for metric in trips)
    return sum(_passes(one, cell.guidance, (sigmas[0], sigmas[-1])) for one in back)


def grids_of(plan: Plan) -> Iterator[tuple[Choice, tuple[float, ...]]]:
    """The strategies and grids of the cells whose states are compared with the flow, if any. Cells that cannot run are
    left out."""
    for cell in plan.cells if REFERENCE in plan.metrics else ():
        with suppress(CodeError, ValueError), Boundary().crossed():
            yield cell.guidance, _sigmas(cell, plan.opened.levels)


def steps_within(budget: int, cell: Cell, levels: samplers.Levels) -> int:
    """The largest number of steps at which the cell takes at most `budget` network passes per image.

    Raises:
        ValueError: one step costs more, or the sampler is adaptive.
    """
    sampler = SAMPLER.build(cell.sampler.name, **cell.sampler.options)
    steps = budget
    while steps > 0:
        candidate = cell.model_copy(update={"steps": steps})
        try:
            sigmas = _sigmas(candidate, levels)
        except ValueError:  # the grid cannot have so many steps
            steps -= 1
            continue
        cost: float | None = sampler.nfe(sigmas)
        if cost is None:
            raise ValueError(
                f"{cell.sampler.label} is adaptive, so its steps do not follow from a budget; give `steps`"
            )
        if cost <= budget:
            cost = network_passes(candidate, levels)
        if cost <= budget:
            return steps
        # One step costs at most a few times the mean cost of a step, so a large excess needs many fewer steps.
        steps -= max(1, int((cost - budget) / (4 * ceil(cost / steps))))
    parts = " · ".join((cell.sampler.label, cell.grid.label, cell.guidance.label))
    raise ValueError(f"{parts} takes more than {budget} network pass{'es' * (budget != 1)} for any number of steps")


def _sigmas(cell: Cell, levels: samplers.Levels) -> tuple[float, ...]:
    sigmas: tuple[float, ...] = grids(levels).build(cell.grid.name, steps=cell.steps, **cell.grid.options)
    return sigmas


def _passes(sampler: samplers.Sampler, choice: Choice, sigmas: Sequence[float]) -> float:
    strategy = GUIDANCE.build(choice.name, **choice.options)
    contexts = dict.fromkeys(("cond", "uncond", "image"), torch.ones(1, 1))
    model = stand_in(_unit_gaussian)
    denoise = Guided(strategy, model, contexts, seeds=[0], encode=lambda prompts: torch.ones(len(prompts), 1))
    samplers.run(sampler, denoise, torch.full((1, 1, 1, 1), sigmas[0]), sigmas, noise=samplers.seeded([0]))
    return denoise.passes


def _unit_gaussian(x: Tensor, sigma: Sigma) -> Tensor:
    """The exact denoiser of data with unit variance, so that an adaptive sampler follows a true flow."""
    return x / (1 + torch.as_tensor(sigma).view(-1, 1, 1, 1) ** 2)
