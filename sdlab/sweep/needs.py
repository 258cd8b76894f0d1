"""What the guidance strategies of a plan need of its model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from samplers import Sampler
from sdlab.guidance import Query, Strategy
from sdlab.guidance.needs import idle, missed, needed, needs_gradients, repeated
from sdlab.plugins import Boundary, CodeError
from sdlab.sweep.axes import GUIDANCE, SAMPLER
from sdlab.sweep.cell import Cell
from sdlab.sweep.passes import sigmas_of
from sdlab.sweep.plan import Plan


@dataclass(frozen=True)
class Needs:
    """What the cells of a plan need. Cells that cannot run are left out (`passes.counted` gives the reason)."""

    queries: dict[Query, str]  # each with the label of a strategy that makes it
    networks: tuple[str, ...]  # the further networks of the model that the plan runs
    idle: dict[str, str]  # the labels of strategies that never act in some cell or make a prediction twice, and why
    missed: dict[str, str]  # the labels of cells in which a strategy does not act between two levels, and why

    @property
    def gradients(self) -> bool:
        """Whether some cell needs gradients through the model."""
        return needs_gradients(self.queries)

    @property
    def prompts(self) -> list[str]:
        """The further prompts of guidance strategies."""
        return list(dict.fromkeys(query.prompt for query in self.queries if query.prompt is not None))


def needs(plan: Plan) -> Needs:
    """What a plan needs, from one pass over its cells."""
    queries, never, between = dict[Query, str](), dict[str, str](), dict[str, str]()
    encodes = "prompts" not in plan.opened.ignores
    for cell, strategy, sigmas in _runs(plan):
        label = cell.guidance.label
        with suppress(CodeError), Boundary().crossed():
            found = needed(strategy, sigmas, _sampler(cell))
            for query in found:
                queries.setdefault(query, label)
            if (
                encodes
                and repeated(found, plan.negative)
                and (why := repeated(needed(strategy, sigmas), plan.negative))
            ):
                never[label] = why
        with suppress(CodeError), Boundary().crossed():
            if why := idle(strategy, sigmas):
                never[label] = why
            elif why := missed(strategy, sigmas, _sampler(cell)):
                between[cell.label] = why
    named = {query.network for query in queries if query.network is not None}
    return Needs(queries, tuple(sorted(named & plan.opened.others.keys())), never, between)


def _runs(plan: Plan) -> Iterator[tuple[Cell, Strategy, tuple[float, ...]]]:
    """Each cell that can run, its strategy and its grid."""
    for cell in plan.cells:
        try:
            with Boundary().crossed():
                strategy = GUIDANCE.build(cell.guidance.name, **cell.guidance.options)
                sigmas = sigmas_of(cell, plan.opened.levels)
        except CodeError:
            continue
        yield cell, strategy, sigmas


def _sampler(cell: Cell) -> Sampler:
    sampler: Sampler = SAMPLER.build(cell.sampler.name, **cell.sampler.options)
    return sampler
