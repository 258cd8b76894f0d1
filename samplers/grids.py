"""Grids: at which noise levels a sampler stops on its way down. Tuples of Python floats, computed in float64.

A grid function takes `steps` (how many levels, all above 0) and `levels` (what the model knows) and gives the positive
levels from the highest down; `grid` looks it up by name and adds the ending.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import exp, log
from typing import Any, Literal, get_args

from samplers.checks import check_options, look_up, positive, whole
from samplers.levels import DiscreteLevels, Levels

Ending = Literal["to_zero", "stop_at_sigma_min", "drop_penultimate"]
ENDINGS: tuple[str, ...] = get_args(Ending)


def grid(name: str, *, steps: int, levels: Levels, ending: str = "to_zero", **options: Any) -> tuple[float, ...]:
    """The grid `name` for `steps` steps: steps + 1 floats, strictly decreasing.

    How it ends:
        to_zero             `steps` levels, then 0.0
        stop_at_sigma_min   `steps` + 1 levels, the last one positive: some noise stays, σ = 0 is never reached
        drop_penultimate    `steps` + 1 levels, the lowest of which gives way to 0.0

    The last two need one level more of the grid than there are steps.

    Raises ValueError for an unknown name, ending or option (with the nearest known one), for `steps` below 1 or more
    than the model has timesteps, and for options with which neighbouring levels would coincide.
    """
    spacing = look_up("grid", name, GRIDS)
    look_up("ending", ending, dict.fromkeys(ENDINGS))
    check_options(f"grid {name!r}", spacing, options)
    whole("steps", steps, 1)
    if ending == "to_zero":
        sigmas = (*spacing(steps, levels, **options), 0.0)
    elif ending == "stop_at_sigma_min":
        sigmas = spacing(steps + 1, levels, **options)
    else:
        sigmas = (*spacing(steps + 1, levels, **options)[:-1], 0.0)
    if not all(a > b for a, b in pairwise(sigmas)):
        raise ValueError(f"grid {name!r} has coinciding levels at {steps} steps with options {options}")
    return sigmas


def karras(steps: int, levels: Levels, rho: float = 7.0) -> tuple[float, ...]:
    """Even in σ^(1/ρ): fine near the data, coarse in the noise.

    σ_i = (σ_max^{1/ρ} + i/(steps−1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ, 0 ≤ i < steps, and ρ > 0.
    (Karras et al. 2022, arXiv:2206.00364, eq. 5)
    """
    positive("karras.rho", rho)
    return _even_in(lambda sigma: sigma ** (1 / rho), lambda u: u**rho, steps, levels)


def exponential(steps: int, levels: Levels) -> tuple[float, ...]:
    """Even in log σ, so in log-SNR: each step scales the noise by the same factor.

    (Lu et al. 2022, arXiv:2206.00927, uniform λ)
    """
    return _even_in(log, exp, steps, levels)


def leading(steps: int, levels: Levels, offset: int = 0) -> tuple[float, ...]:
    """Even integer timesteps from the low end: t = i ⌊n/steps⌋ + offset; starts below σ_max.

    The spacing of the DDIM code (Song, Meng, Ermon 2021, arXiv:2010.02502), named in Lin et al. 2023 (arXiv:2305.08891,
    Table 2). Stable Diffusion v1 was published with offset 1. ValueError where that leads beyond the table.
    """
    whole("leading.offset", offset, 0)
    table = _table("leading", steps, levels)
    stride = table.n // steps
    top = (steps - 1) * stride + offset
    if top >= table.n:
        raise ValueError(
            f"grid 'leading' with {steps} levels, offset {offset} starts at timestep {top}; the last is {table.n - 1}"
        )
    return tuple(table.sigmas[i * stride + offset] for i in reversed(range(steps)))


def linspace(steps: int, levels: Levels) -> tuple[float, ...]:
    """Even timesteps from the last to the first, fractional ones included.

    (Lin et al. 2023, arXiv:2305.08891, Table 2, unrounded)
    Between timesteps σ is read log-linearly, as `DiscreteLevels.t` does: the network is then called at exactly these t.
    """
    table = _table("linspace", steps, levels)
    last = table.n - 1
    return tuple(table.sigma(last - last * i / max(steps - 1, 1)) for i in range(steps))


def trailing(steps: int, levels: Levels) -> tuple[float, ...]:
    """Even integer timesteps from the high end: t = round(n − i n/steps) − 1; starts at σ_max.

    (Lin et al. 2023, arXiv:2305.08891, Table 2)
    """
    table = _table("trailing", steps, levels)
    return tuple(table.sigmas[round(table.n - i * table.n / steps) - 1] for i in range(steps))


GRIDS: dict[str, Callable[..., tuple[float, ...]]] = {
    "exponential": exponential,
    "karras": karras,
    "leading": leading,
    "linspace": linspace,
    "trailing": trailing,
}


def _even_in(
    scale: Callable[[float], float], inverse: Callable[[float], float], steps: int, levels: Levels
) -> tuple[float, ...]:
    """`steps` levels from σ_max to σ_min, evenly spaced on `scale`; the two ends are met exactly."""
    top, low = scale(levels.sigma_max), scale(levels.sigma_min)
    inner = (inverse(top + i / (steps - 1) * (low - top)) for i in range(1, steps - 1))
    return (levels.sigma_max, *inner, levels.sigma_min)[:steps]


def _table(name: str, steps: int, levels: Levels) -> DiscreteLevels:
    if not isinstance(levels, DiscreteLevels):
        raise ValueError(f"grid {name!r} is spaced in timesteps and needs discrete levels")
    if steps > levels.n:
        raise ValueError(f"grid {name!r} cannot have {steps} levels: the model has {levels.n} timesteps")
    return levels
