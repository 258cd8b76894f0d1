"""The axes of a sweep: the registries that a cell chooses from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import samplers
from samplers.grids import OURS, default_ending
from sdlab import guidance, plugins
from sdlab.registry import Registry


def grids(levels: samplers.Levels) -> Registry:
    """The registry of grids, whose choices are tried out on this noise schedule."""
    return replace(GRID, build=partial(_grid, levels=levels))


def _grid(name: str, levels: samplers.Levels, steps: int | None = None, **options: Any) -> tuple[float, ...]:
    """A grid that tries out a choice. It has ten steps, or fewer if the model has fewer timesteps.

    An explicit grid has the steps that it lists. A custom grid is tried with four levels, as when it was loaded. If its
    code fails with more levels, only its cells fail.
    """
    if steps is None and plugins.is_custom("grid", name):
        steps = 4 - (_ending(name, options) != "to_zero")
    if steps is None:
        listed = options.get("sigmas") or options.get("timesteps") if name == "explicit" else None
        most = max(1, levels.n - 1) if isinstance(levels, samplers.DiscreteLevels) else 10
        steps = len(listed) - (_ending(name, options) != "to_zero") if listed else min(10, most)
    return samplers.grid(name, steps=steps, levels=levels, **options)


def _settled(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a grid, with the ending of its dialect filled in if none is given."""
    return {**options, "ending": _ending(name, options)}


def _used(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a guidance strategy, without wrappers that are not used."""
    return {key: value for key, value in options.items() if value is not None or key not in guidance.WRAPPERS}


def _ending(name: str, options: Mapping[str, Any]) -> str:
    ending = options.get("ending")
    return default_ending(name, options.get("dialect", OURS)) if ending is None else ending


SAMPLER = Registry("sampler", samplers.SAMPLERS, samplers.make, example="ddim")
GUIDANCE = Registry(
    "guidance",
    guidance.GUIDANCE,
    guidance.make,
    guidance.wrapped,
    frozenset({"strategy"}),
    _used,
    guidance.unchained,
    example="cfg",
)
GRID = Registry(
    "grid", samplers.GRIDS, _grid, samplers.grid, frozenset({"name", "steps", "levels"}), _settled, example="karras"
)
