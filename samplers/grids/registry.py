"""The registry of grids, and the ending that each gets. Tuples of Python floats, computed in float64.

A grid is the σ at which a sampler stops on its way down. A grid function takes `steps` (how many levels, all above 0)
and `levels` (the noise schedule of the model), and returns the positive levels from the highest down. `grid` looks it
up by name and adds the ending. A new grid is one function and one line in `GRIDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, Literal, get_args

from samplers.checks import check_options, look_up, whole, within
from samplers.grids.dialects import DIALECTS, Theirs
from samplers.grids.in_sigma import (
    beta_sigma,
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

    How it ends:
        to_zero             `steps` levels, then 0.0
        stop_at_sigma_min   `steps` + 1 levels, the last one positive: some noise stays, σ = 0 is never reached
        drop_penultimate    `steps` + 1 levels, the lowest of which is replaced by 0.0

    The last two need one level more of the grid than there are steps. Without an `ending` the grid ends as its dialect
    does, which is "to_zero" for nearly all (`default_ending`). An ending that is given always holds.

    Where projects disagree on what a name means, `dialect` gives the values of one of them ("diffusers", "comfyui",
    "a1111", "k-diffusion"; see samplers/grids/dialects.py). A few of those have another number of levels than was asked
    for.

    Raises:
        ValueError: a name, ending, dialect or option is unknown (the message has the nearest known one), `steps` is
            below 1 or more than the model has timesteps, or neighbouring levels would coincide.
    """
    spacing = look_up("grid", name, GRIDS)
    if ending is None:
        ending = default_ending(name, dialect)
    look_up("ending", ending, dict.fromkeys(ENDINGS))
    if dialect != OURS:
        spacing = _theirs(name, dialect).spacing
    check_options(f"grid {name!r}", spacing, options)
    whole("steps", steps, 1)
    # Any iterable of numbers will do: integers, or a tensor.
    sigmas = tuple(map(float, spacing(steps if ending == "to_zero" else steps + 1, levels, **options)))
    if ending != "stop_at_sigma_min":
        sigmas = (*(sigmas if ending == "to_zero" else sigmas[:-1]), 0.0)
    if not all(a > b for a, b in pairwise(sigmas)):
        raise ValueError(f"grid {name!r} has coinciding levels at {steps} steps with options {options}")
    return sigmas


def default_ending(name: str, dialect: str = OURS) -> str:
    """How the grid `name` ends in a dialect unless told otherwise.

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
    """Between two other grids, level by level: ln σ = (1 − share) ln σ_first + share ln σ_second.

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
    "beta_sigma": beta_sigma,
    "blend": blend,
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
