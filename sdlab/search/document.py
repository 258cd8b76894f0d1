"""The search file: a sweep file with ranges, and a table `[search]`. It is checked as sweeps at the ends of its ranges.

The images are divided. Trials are scored on the first half, and the cells that are chosen on the second, whose values
the choice has not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from sdlab.metrics import METRICS, Metric
from sdlab.registry import Mistake
from sdlab.search.space import Space, read_space
from sdlab.sweep.cell import canonical, digest
from sdlab.sweep.document import mistakes_of
from sdlab.sweep.plan import Plan, place, plan_of, read_sweep
from sdlab.system.errors import UsageError
from sdlab.system.limits import CELLS, SEED, brief

_FEWEST = 16  # images: from fewer, the interval of a half says nothing
_WITHOUT = {
    "exclude": "leave values out of the lists instead",
    "extra": "add values to the lists instead",
    "compare": "sweep the front that is found instead",
    "image": "a search draws from noise alone; sweep the strengths instead",
}  # keys of a sweep file that a search file does not have


class Search(BaseModel):
    """`[search]`: how the search is done."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)

    quality: str | None = None
    """The metric that is searched for, together with few network passes. By default the first of `metrics`."""
    trials: Annotated[int, Field(ge=CELLS.low, le=CELLS.high)] = 60
    """How many cells are measured. More trials continue an earlier search."""
    seed: Annotated[int, Field(ge=SEED.low, lt=2**32)] = 0
    """Seed of the proposals. The images have the seed of the sweep."""


@dataclass(frozen=True)
class SearchPlan:
    """What is searched, and the two halves of the images."""

    file: Path
    prompts: Mapping[str, Any]  # the table in the file
    settings: Search
    space: Space
    first: Plan  # on which trials are scored, by the quality alone; its cells are the ends of the ranges
    second: Plan  # on which the front is measured, by all metrics; it has the same cells before there is a front

    @property
    def name(self) -> str:
        """The name of the run directory."""
        return self.first.name

    @property
    def quality(self) -> Metric:
        """The metric that is searched for."""
        return self.first.measures[0]

    @property
    def trials(self) -> int:
        """How many cells are measured: no more than there are."""
        return int(min(self.settings.trials, self.space.cells))

    def study(self, model: str) -> str:
        """The name of the study: all that the order of proposals depends on, except the number of trials."""
        axes = {axis: self.space.texts(axis) for axis in self.space.axes}
        return digest([axes, self.settings.seed, self.first.key(self.first.cells[0], model)])


def load_search(path: str | Path, overrides: Mapping[str, Any] | None = None) -> SearchPlan:
    """Read a search file. `overrides` replace its top-level values; `trials` is that of `[search]`.

    Raises:
        UsageError: the file is missing, is not TOML, or has mistakes. The message has one line per mistake.
    """
    given = dict(overrides or {})
    file, raw = read_sweep(path)
    raw |= {key: value for key, value in given.items() if key != "trials"}
    settings, mistakes = _settings(raw.pop("search", {}), given)
    table = raw.get("cells")
    space, wrong = read_space(table) if isinstance(table, dict) else (Space({}), [])
    mistakes += [(f"cells.{key}", text) for key, text in wrong]
    if not isinstance(table, dict):
        mistakes.append(("cells", "missing; a search needs [cells] with lists or ranges"))
    elif not wrong and space.cells <= 1:
        mistakes.append(("cells", "there is one cell; give lists, or ranges like {from = 5, to = 20}"))
    mistakes += [(key, f"a search file has no `{key}`; {advice}") for key, advice in _WITHOUT.items() if key in raw]
    if isinstance(raw.get("images"), dict):
        mistakes.append(("images", "should be a whole number: trials are scored on the first half of them"))
    if isinstance(raw.get("device"), list) and len(raw["device"]) > 1:
        mistakes.append(("device", "should be one device: each trial follows from those before"))
    if settings is None or mistakes:
        raise UsageError(*(f"{place(file, key, given)}: {text}" for key, text in mistakes))
    low, high = _ends(file, raw, space, given)
    if mistakes := [*_unfit(low, settings)]:
        raise UsageError(*(f"{place(file, key, given)}: {text}" for key, text in mistakes))
    cells = {canonical(cell.complete()): cell for cell in (*low.cells, *high.cells)}
    first, second = halves(low.model_copy(update={"cells": tuple(cells.values()), "notes": ()}))
    first = first.model_copy(update={"metrics": (settings.quality or low.metrics[0],), "timing_rounds": 0})
    second = second.model_copy(update={"name": f"{low.name}_front"})
    return SearchPlan(file, raw.get("prompts", {}), settings, space, first, second)


def halves(plan: Plan) -> tuple[Plan, Plan]:
    """The plan of the first half of the images, and that of the second. Every image keeps its seed and its prompt."""
    half = plan.images // 2

    def part(first: int) -> Plan:
        count = len(plan.prompts)
        prompts = tuple(plan.prompts[(first + i) % count] for i in range(min(half, count)))
        # Prompts that are repeated within a half are those of the plan in turn, so image i has prompt i mod `count`.
        return plan.model_copy(update={"images": half, "seed": plan.seed + first, "prompts": prompts})

    return part(0), part(half)


def _settings(value: object, given: Mapping[str, Any]) -> tuple[Search | None, list[Mistake]]:
    if isinstance(value, dict) and "trials" in given:
        value = {**value, "trials": given["trials"]}
    try:
        return Search.model_validate(value), []
    except ValidationError as error:
        faults = [ErrorDetails({**fault, "loc": ("search", *fault["loc"])}) for fault in error.errors()]
        found = [mistake for fault in faults for mistake in mistakes_of(fault, {"search": Search})]
        return None, [("trials" if key == "search.trials" and "trials" in given else key, text) for key, text in found]


def _ends(file: Path, raw: Mapping[str, Any], space: Space, given: Mapping[str, Any]) -> tuple[Plan, Plan]:
    """The sweeps at both ends of all ranges, whose mistakes are reported together."""
    plans, mistakes = list[Plan](), dict[str, None]()
    for end in ("low", "high"):
        try:
            plans.append(plan_of(file, {**raw, "cells": space.at(end)}, given))
        except UsageError as error:
            mistakes |= dict.fromkeys(error.args)
    if mistakes:
        raise UsageError(*mistakes)
    low, high = plans
    return low, high


def _unfit(plan: Plan, settings: Search) -> list[Mistake]:
    """Why the sweep at the ends of the ranges cannot be searched."""
    mistakes: list[Mistake] = []
    if not plan.metrics:
        mistakes.append(("metrics", 'missing; a search needs a metric, like ["prompt_accuracy"]'))
    elif settings.quality is not None and settings.quality not in plan.metrics:
        mistakes.append(("search.quality", f"{brief(settings.quality)} is not measured; add it to `metrics`"))
    elif METRICS[quality := settings.quality or plan.metrics[0]].better == "nearer to real":
        text = f"neither a lower nor a higher {quality} is better; choose another metric"
        mistakes.append(("search.quality" if settings.quality else "metrics", text))
    if plan.images < _FEWEST:
        mistakes.append(("images", f"should be at least {_FEWEST}, half of them for the trials, got {plan.images}"))
    if plan.pictures is not None:
        mistakes.append(("prompts", f"has pictures; {_WITHOUT['image']}"))
    return mistakes
