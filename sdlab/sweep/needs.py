"""What the guidance strategies of a plan need of its model."""

from __future__ import annotations

from contextlib import suppress

from sdlab.guidance import Query
from sdlab.guidance.needs import needed
from sdlab.plugins import Boundary, CodeError
from sdlab.sweep.axes import GUIDANCE
from sdlab.sweep.passes import sigmas_of
from sdlab.sweep.plan import Plan


def queries(plan: Plan) -> dict[Query, str]:
    """The queries of all cells, each with the label of a strategy that makes it.

    Cells that cannot run are left out (`passes.counted` gives the reason).
    """
    found: dict[Query, str] = {}
    for cell in plan.cells:
        with suppress(CodeError), Boundary().crossed():
            strategy = GUIDANCE.build(cell.guidance.name, **cell.guidance.options)
            for query in needed(strategy, sigmas_of(cell, plan.opened.levels)):
                found.setdefault(query, cell.guidance.label)
    return found


def networks(plan: Plan) -> tuple[str, ...]:
    """The further networks of the model that the plan runs."""
    named = {query.network for query in queries(plan) if query.network is not None}
    return tuple(sorted(named & plan.opened.others.keys()))
