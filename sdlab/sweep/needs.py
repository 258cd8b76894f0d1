"""What the guidance strategies of a plan need of its model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from samplers import Sampler
from sdlab.guidance import Query, Strategy
from sdlab.guidance.needs import idle, missed, needed, needs_gradients, repeated
from sdlab.plugins import Boundary, CodeError
from sdlab.sweep.axes import GUIDANCE, SAMPLER
from sdlab.sweep.cell import Cell
from sdlab.sweep.passes import sigmas_of
from sdlab.sweep.plan import Plan


def queries(plan: Plan) -> dict[Query, str]:
    """The queries of all cells, each with the label of a strategy that makes it."""
    found: dict[Query, str] = {}
    for cell, strategy, sigmas in _runs(plan):
        with suppress(CodeError), Boundary().crossed():
            for query in needed(strategy, sigmas, _sampler(cell)):
                found.setdefault(query, cell.guidance.label)
    return found


def idle_cells(plan: Plan) -> dict[str, str]:
    """Strategies, by label, that never act in some cell or make a prediction twice, and why."""
    found: dict[str, str] = {}
    encodes = "prompts" not in plan.opened.ignores
    for cell, strategy, sigmas in _runs(plan):
        with suppress(CodeError), Boundary().crossed():
            twice = repeated(needed(strategy, sigmas), plan.negative) if encodes else None
            if why := idle(strategy, sigmas) or twice:
                found[cell.guidance.label] = why
    return found


def missed_cells(plan: Plan) -> dict[str, str]:
    """Cells, by label, in which a strategy does not act because its interval has no level of a call, and why."""
    found: dict[str, str] = {}
    for cell, strategy, sigmas in _runs(plan):
        with suppress(CodeError), Boundary().crossed():
            sampler = _sampler(cell)
            if idle(strategy, sigmas) is None and (why := missed(strategy, sigmas, sampler)):
                found[cell.label] = why
    return found


def prompts(plan: Plan) -> list[str]:
    """The further prompts of guidance strategies."""
    return list(dict.fromkeys(query.prompt for query in queries(plan) if query.prompt is not None))


def _runs(plan: Plan) -> Iterator[tuple[Cell, Strategy, tuple[float, ...]]]:
    """Each cell, its strategy and its grid.

    Cells that cannot run are left out (`passes.counted` gives the reason).
    """
    for cell in plan.cells:
        try:
            with Boundary().crossed():
                strategy = GUIDANCE.build(cell.guidance.name, **cell.guidance.options)
                sigmas = sigmas_of(cell, plan.opened.levels)
        except CodeError:
            continue
        yield cell, strategy, sigmas


def gradients(plan: Plan) -> bool:
    """Whether some cell needs gradients through the model."""
    return needs_gradients(queries(plan))


def _sampler(cell: Cell) -> Sampler:
    sampler: Sampler = SAMPLER.build(cell.sampler.name, **cell.sampler.options)
    return sampler


def networks(plan: Plan) -> tuple[str, ...]:
    """The further networks of the model that the plan runs."""
    named = {query.network for query in queries(plan) if query.network is not None}
    return tuple(sorted(named & plan.opened.others.keys()))
