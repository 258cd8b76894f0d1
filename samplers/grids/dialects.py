"""Dialects: the levels that other projects compute under a grid's name.

    diffusers     EulerDiscreteScheduler with timestep_spacing="linspace" (and FlowMatchEulerDiscreteScheduler for flow)
    comfyui       ComfyUI's scheduler menu and nodes
    a1111         AUTOMATIC1111's webui and its successor Forge
    k-diffusion   its get_sigmas functions

A grid that a project has under another name is listed under the name used here. ComfyUI's "normal" is linspace. A
project's ending is part of its dialect, unless `ending` is set. diffusers' multistep schedulers use leading, linspace
and trailing with `ending="drop_penultimate"` and rounded timesteps.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log
from typing import NamedTuple

from samplers.grids.in_sigma import (
    beta_sigma,
    exponential,
    karras,
    kl_optimal,
    linear_quadratic_shares,
    polyexponential,
)
from samplers.grids.in_time import beta_quantile, leading, linspace, sgm_uniform, simple, table_of, trailing, turbo
from samplers.grids.tables import ays, explicit, gits, stretched
from samplers.levels import DiscreteLevels, Levels

Spacing = Callable[..., tuple[float, ...]]

AYS_ROUNDED = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
}
GITS_FORGE = (14.615, 4.617, 2.507, 1.236, 0.702, 0.402, 0.240, 0.156, 0.104, 0.094, 0.029)


class Theirs(NamedTuple):
    """A project's positive levels, and its ending."""

    spacing: Spacing
    ending: str = "to_zero"


def _linspace_diffusers(steps: int, levels: Levels) -> tuple[float, ...]:
    """Between two timesteps σ is read linearly; the network is called at the timestep itself."""
    table = table_of("linspace", steps, levels)
    times = (table.t_max - table.t_max * i / max(steps - 1, 1) for i in range(steps))
    return tuple(_linear_in_sigma(table, t) for t in times)


def _linear_in_sigma(table: DiscreteLevels, t: float) -> float:
    low = min(int(t), table.n - 2)
    return table.sigmas[low] + (t - low) * (table.sigmas[low + 1] - table.sigmas[low])


def _flow_diffusers(steps: int, levels: Levels, shift: float = 1.0) -> tuple[float, ...]:
    """Both ends of the range of u are levels, and the lower end is already shifted. t = 1 is σ_max."""

    def shifted(u: float) -> float:
        return shift * u / (1 + (shift - 1) * u)

    low = shifted(levels.sigma_min / (1 + levels.sigma_min))
    times = (shifted(1 + i / (steps - 1) * (low - 1)) for i in range(1, steps))
    return (levels.sigma_max, *(t / (1 - t) for t in times))


def _ays_diffusers(steps: int, levels: Levels, table: str = "sd15") -> tuple[float, ...]:
    """The published σ, for 10 steps only, rounded to three decimals."""
    if steps != 10:
        raise ValueError(f"grid 'ays' of diffusers needs steps = 10, got {steps}")
    return _rounded(table)[:-1]


def _ays_a1111(steps: int, levels: Levels, table: str = "sd15") -> tuple[float, ...]:
    """The eleven published σ are the levels of eleven steps, and are interpolated for other numbers of steps."""
    return stretched(_rounded(table), steps)


def _rounded(table: str) -> tuple[float, ...]:
    if table not in AYS_ROUNDED:
        raise ValueError(f"this dialect's table must be one of {', '.join(AYS_ROUNDED)}, got {table!r}")
    return AYS_ROUNDED[table]


def _gits_forge(steps: int, levels: Levels) -> tuple[float, ...]:
    """One table of eleven levels, interpolated."""
    return stretched(GITS_FORGE, steps)


def _beta_comfyui(steps: int, levels: Levels, alpha: float = 0.6, beta: float = 0.6) -> tuple[float, ...]:
    """Rounded timesteps without duplicates, so with many steps some are missing."""
    table = table_of("beta", steps, levels)
    times = [round((table.n - 1) * beta_quantile(1 - i / steps, alpha, beta)) for i in range(steps)]
    return tuple(table.sigmas[t] for t in dict.fromkeys(times))


def _beta57_comfyui(steps: int, levels: Levels) -> tuple[float, ...]:
    """That of the RES4LYF nodes, rounded like ComfyUI's beta."""
    return _beta_comfyui(steps, levels, 0.5, 0.7)


def _ddim_comfyui(steps: int, levels: Levels) -> tuple[float, ...]:
    """Every ⌊n/N⌋-th timestep from 1 on, however many that gives: 16 for 15 steps."""
    table = table_of("ddim_uniform", steps, levels)
    return tuple(reversed(table.sigmas[1 :: table.n // steps]))


def _linear_quadratic_comfyui(
    steps: int, levels: Levels, threshold: float = 0.025, linear_steps: int | None = None
) -> tuple[float, ...]:
    """The shares of a flow's time applied to σ itself."""
    return tuple(levels.sigma_max * (1 - r) for r in linear_quadratic_shares(steps, threshold, linear_steps))


def _laplace_comfyui(steps: int, levels: Levels, mu: float = 0.0, beta: float = 0.5) -> tuple[float, ...]:
    """Even shares of the whole distribution, clamped to the ends."""
    clear = 1e-5  # avoids log 0
    shares = (i / max(steps - 1, 1) for i in range(steps))
    signed = ((-1 if share > 0.5 else 1) * log(1 - 2 * abs(0.5 - share) + clear) for share in shares)
    return tuple(min(max(exp(mu - beta * u), levels.sigma_min), levels.sigma_max) for u in signed)


def _turbo_comfyui(steps: int, levels: Levels) -> tuple[float, ...]:
    """The highest `steps` of ten even timesteps. With four steps, the last step covers all the rest."""
    table = table_of("turbo", steps, levels)
    if steps > 10:
        raise ValueError(f"grid 'turbo' of ComfyUI needs at most 10 steps, got {steps}")
    return tuple(table.sigmas[(10 - i) * table.n // 10 - 1] for i in range(steps))


def _same(*spacings: Spacing) -> dict[str, Theirs]:
    return {spacing.__name__: Theirs(spacing) for spacing in spacings}


DIALECTS: dict[str, dict[str, Theirs]] = {
    "diffusers": {
        **_same(karras, exponential, leading, trailing, explicit),
        "ays": Theirs(_ays_diffusers),
        "beta": Theirs(beta_sigma),
        "flow": Theirs(_flow_diffusers),
        "linspace": Theirs(_linspace_diffusers),
    },
    "comfyui": {
        **_same(karras, exponential, polyexponential, linspace, simple, sgm_uniform, kl_optimal, ays, gits, explicit),
        "beta": Theirs(_beta_comfyui),
        "beta57": Theirs(_beta57_comfyui),
        "ddim_uniform": Theirs(_ddim_comfyui),
        "laplace": Theirs(_laplace_comfyui, "stop_at_sigma_min"),
        "linear_quadratic": Theirs(_linear_quadratic_comfyui),
        "turbo": Theirs(_turbo_comfyui),
    },
    "a1111": {
        **_same(karras, exponential, polyexponential, linspace, simple, sgm_uniform, turbo),
        "ays": Theirs(_ays_a1111),
        "beta": Theirs(beta_sigma),
        "ddim_uniform": Theirs(_ddim_comfyui),
        "gits": Theirs(_gits_forge),
        "kl_optimal": Theirs(kl_optimal, "stop_at_sigma_min"),
    },
    "k-diffusion": _same(karras, exponential, polyexponential, linspace),
}
