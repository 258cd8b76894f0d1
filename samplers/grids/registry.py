"""The registry of grids, and their endings. Grids are tuples of Python floats, computed in float64.

A grid is the sequence of σ of a sampling run. A grid function takes `steps` (the number of positive levels) and
`levels` (the model's noise schedule), and returns the positive levels, highest first. `grid` looks the function up by
name and adds the ending. A new grid is one function and one line in `GRIDS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, Literal, get_args

from samplers.checks import check_options, look_up, whole, within
from samplers.grids.dialects import DIALECTS, Theirs
from samplers.grids.in_sigma import (
    beta_sigma,
    bong_tangent,
    exponential,
    flow,
    karras,
    kl_optimal,
    laplace,
    linear_quadratic,
    polyexponential,
)
from samplers.grids.in_time import (
    beta,
    beta57,
    ddim_uniform,
    leading,
    linspace,
    sgm_uniform,
    simple,
    time_quadratic,
    trailing,
    turbo,
)
from samplers.grids.tables import ays, explicit, gits
from samplers.levels import Levels

Ending = Literal["to_zero", "stop_at_sigma_min", "drop_penultimate"]
ENDINGS: tuple[str, ...] = get_args(Ending)
OURS = "ours"


def grid(
    name: str, *, steps: int, levels: Levels, ending: str | None = None, dialect: str = OURS, **options: Any
) -> tuple[float, ...]:
    """The grid `name` for `steps` steps: steps + 1 floats, strictly decreasing.

    Endings:
        to_zero             `steps` levels, then 0.0
        stop_at_sigma_min   `steps` + 1 levels, the last one positive: some noise remains
        drop_penultimate    `steps` + 1 levels, with the lowest replaced by 0.0

    The last two take one more level from the grid than there are steps. `ending` defaults to the dialect's, which is
    nearly always "to_zero" (`default_ending`).

    Where projects disagree on the meaning of a name, `dialect` selects one of them ("diffusers", "comfyui", "a1111",
    "k-diffusion"; see samplers/grids/dialects.py). In a few dialects the number of levels differs from `steps`.

    Raises:
        ValueError: a name, ending, dialect or option is unknown (the message suggests the nearest name), `steps` is
            below 1 or above the model's number of timesteps, or the levels are not finite or do not fall strictly.
    """
    spacing = look_up("grid", name, GRIDS)
    if ending is None:
        ending = default_ending(name, dialect)
    look_up("ending", ending, dict.fromkeys(ENDINGS))
    if dialect != OURS:
        spacing = _theirs(name, dialect).spacing
    check_options(f"grid {name!r}", spacing, options)
    whole("steps", steps, 1, 1_000_000)
    # A grid function may return any iterable of numbers, such as integers or a tensor.
    try:
        sigmas = tuple(map(float, spacing(steps if ending == "to_zero" else steps + 1, levels, **options)))
    except ArithmeticError:  # an overflow, or a division by what was rounded to 0
        sigmas = (math.inf,)
    if not all(map(math.isfinite, sigmas)):
        raise ValueError(f"grid {name!r} has levels that are not finite, at {steps} steps with options {options}")
    if ending != "stop_at_sigma_min":
        sigmas = (*(sigmas if ending == "to_zero" else sigmas[:-1]), 0.0)
    for a, b in pairwise(sigmas):
        if not a > b:
            fault = f"rises from {a:.6g} to {b:.6g}" if a < b else f"has coinciding levels, {a:.6g} and {b:.6g},"
            raise ValueError(f"grid {name!r} {fault} at {steps} steps with options {options}")
    return sigmas


def default_ending(name: str, dialect: str = OURS) -> str:
    """The default ending of the grid `name` in a dialect.

    Raises:
        ValueError: the dialect is unknown, or has no such grid.
    """
    return "to_zero" if dialect == OURS else _theirs(name, dialect).ending


def _theirs(name: str, dialect: str) -> Theirs:
    return look_up(f"grid of {dialect}", name, look_up("dialect", dialect, {OURS: {}, **DIALECTS}))


def blend(
    steps: int,
    levels: Levels,
    first: str | Mapping[str, Any] = "karras",
    second: str | Mapping[str, Any] = "exponential",
    share: float = 0.5,
) -> tuple[float, ...]:
    """An interpolation of two other grids, level by level: ln σ = (1 − share) ln σ_first + share ln σ_second.

    Each is a name, or a table of a name and its options, like {"name": "karras", "rho": 5.0}.

    Raises:
        ValueError: share is not in [0, 1], or a grid or an option is unknown.
    """
    within("blend.share", share, 0, 1)
    one, other = (_levels_of(choice, steps, levels) for choice in (first, second))
    return tuple(a * (b / a) ** share for a, b in zip(one, other, strict=True))


GRIDS: dict[str, Callable[..., Iterable[float]]] = {
    "ays": ays,
    "beta": beta,
    "beta57": beta57,
    "beta_sigma": beta_sigma,
    "blend": blend,
    "bong_tangent": bong_tangent,
    "ddim_uniform": ddim_uniform,
    "explicit": explicit,
    "exponential": exponential,
    "flow": flow,
    "gits": gits,
    "karras": karras,
    "kl_optimal": kl_optimal,
    "laplace": laplace,
    "leading": leading,
    "linear_quadratic": linear_quadratic,
    "linspace": linspace,
    "polyexponential": polyexponential,
    "sgm_uniform": sgm_uniform,
    "simple": simple,
    "time_quadratic": time_quadratic,
    "trailing": trailing,
    "turbo": turbo,
}


def _levels_of(choice: str | Mapping[str, Any], steps: int, levels: Levels) -> tuple[float, ...]:
    options = {"name": choice} if isinstance(choice, str) else dict(choice)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"blend needs the name of a grid, got {choice!r}")
    spacing = look_up("grid", name, GRIDS)
    check_options(f"grid {name!r}", spacing, options)
    return tuple(map(float, spacing(steps, levels, **options)))
