"""Every numeric option of every sampler, grid, strategy and exact model has limits, checked before anything runs.

A value far beyond what makes sense is refused in one clear line, or it is accepted and gives finite numbers.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch

import samplers
from samplers.checks import option_types
from samplers.exact.problems import Gaussian
from sdlab import guidance
from sdlab.backends.exact import _REGISTRY as EXACT
from sdlab.guidance import Level
from sdlab.registry import Registry, frozen
from sdlab.sweep.axes import GUIDANCE, SAMPLER, grids

LEVELS = samplers.discrete_levels()
GRID = grids(LEVELS)
VALUES = (1e30, -1e30, math.nan, math.inf, -math.inf, 1e-300, 10**30)


def numeric(hint: Any) -> bool:
    return hint in (int, float) or any(numeric(part) for part in typing.get_args(hint))


def listed(hint: Any) -> bool:
    """Whether the option is a list of numbers, or may be."""
    return any(part in ("tuple", "Sequence") for part in (getattr(hint, "__name__", ""), getattr(hint, "_name", "")))


def options(registry: Registry) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each numeric option of each entry, with each of the values."""
    for name in registry.known:
        hints = {key: hint for built in registry._sources(name) for key, hint in option_types(built).items()}
        for key in registry.parameters(name):
            hint = hints.get(key)
            if numeric(hint):
                several = any(map(listed, (hint, *typing.get_args(hint))))
                for value in VALUES:
                    yield from ((name, {key: form}) for form in ([[value], [1.0, value]] if several else [value]))


def sampled(name: str, chosen: dict[str, Any]) -> torch.Tensor:
    """Samples of N(0, 1)."""
    sampler = samplers.make(name, **chosen).with_levels(LEVELS)
    if hasattr(sampler, "alpha") or name.endswith("cfg_pp"):
        return torch.zeros(1)  # these need a guided denoiser
    sigmas, noise = samplers.grid("karras", steps=4, levels=LEVELS), samplers.seeded([0, 1])
    start = noise(torch.empty(2, 3, 2)) * sigmas[0]
    return samplers.run(sampler, Gaussian(torch.tensor(0.0), torch.tensor(1.0)).denoise, start, sigmas, noise=noise)


def guided(name: str, chosen: dict[str, Any]) -> torch.Tensor:
    """What the strategy makes of standard normal predictions at three levels."""
    strategy, state, found = guidance.make(name, **chosen), None, []
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=draw)
    for level in map(Level, (10.0, 1.0, 0.1)):
        predictions = tuple(torch.randn(x.shape, generator=draw) for _ in strategy.queries(level))
        x0, state = strategy.combine(predictions, x, level, state)
        found.append(x0)
    return torch.stack(found)


def spaced(name: str, chosen: dict[str, Any]) -> torch.Tensor:
    """The levels of a grid."""
    steps = len(next(iter(chosen.values()))) if name == "explicit" else 5
    return torch.tensor(samplers.grid(name, steps=steps, levels=LEVELS, **chosen), dtype=torch.float64)


KINDS: dict[str, tuple[Registry, Callable[[str, dict[str, Any]], torch.Tensor]]] = {
    "sampler": (SAMPLER, sampled),
    "grid": (GRID, spaced),
    "guidance": (GUIDANCE, guided),
    "model": (EXACT, lambda name, chosen: torch.zeros(1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_absurd_number_is_refused_in_one_clear_line_or_gives_finite_values(kind: str):
    registry, run = KINDS[kind]
    refused = accepted = 0
    for name, chosen in options(registry):
        case = f"{name} {chosen}"
        mistakes = registry.mistakes(name, chosen)
        if mistakes:
            [(_, message)] = mistakes
            assert "\n" not in message, case
            assert "Error" not in message, f"{case}: {message}"  # the name of an exception is not a clear line
            refused += 1
            continue
        [value] = chosen.values()
        size = max(abs(one) for one in (value if isinstance(value, list) else [value]))
        assert size <= samplers.checks.HIGHEST or size == math.inf, f"{case} is accepted"
        accepted += 1
        with suppress(ValueError, RuntimeError):  # the reason why this one cell fails
            assert run(name, {key: frozen(value) for key, value in chosen.items()}).isfinite().all(), case
    assert refused > 10
    assert accepted or kind == "model"
