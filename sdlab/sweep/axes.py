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
    """The grids of a model with this noise schedule; a choice is tried on it."""
    return replace(GRID, build=partial(_grid, levels=levels))


def _grid(name: str, levels: samplers.Levels, steps: int | None = None, **options: Any) -> tuple[float, ...]:
    """A grid to try a choice with: of ten steps or as many as the model has timesteps, or of those that it lists.

    A custom grid is tried with four levels, as when it was loaded. Its code may fail with more; that fails its cells.
    """
    if steps is None and plugins.is_custom("grid", name):
        steps = 4 - (_ending(name, options) != "to_zero")
    if steps is None:
        listed = options.get("sigmas") or options.get("timesteps") if name == "explicit" else None
        most = max(1, levels.n - 1) if isinstance(levels, samplers.DiscreteLevels) else 10
        steps = len(listed) - (_ending(name, options) != "to_zero") if listed else min(10, most)
    return samplers.grid(name, steps=steps, levels=levels, **options)


def _settled(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """`options` of a grid with its ending: the one given, or that of the dialect."""
    return {**options, "ending": _ending(name, options)}


def _ending(name: str, options: Mapping[str, Any]) -> str:
    ending = options.get("ending")
    return default_ending(name, options.get("dialect", OURS)) if ending is None else ending


SAMPLER = Registry("sampler", samplers.SAMPLERS, samplers.make)
GUIDANCE = Registry("guidance", guidance.GUIDANCE, guidance.make)
GRID = Registry("grid", samplers.GRIDS, _grid, samplers.grid, frozenset({"name", "steps", "levels"}), _settled)
