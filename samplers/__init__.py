"""The mathematics of diffusion sampling: rules, grids, noise, closed-form problems. Needs torch, NumPy, SciPy.

    rule   = samplers.make("dpmpp_2m")
    levels = samplers.discrete_levels()
    sigmas = samplers.grid("karras", steps=20, levels=levels)
    noise  = samplers.seeded([0, 1, 2])
    x0     = samplers.run(rule, denoise, noise(like) * sigmas[0], sigmas, noise=noise)

`denoise(x, sigma) -> x̂₀` is anything that estimates the data x₀ from x = x₀ + σ ε. A new rule is its file and its line
in `SAMPLERS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from samplers.base import Denoiser, Noise, Sampler, nfe, run
from samplers.checks import check_options, look_up
from samplers.ddim import DDIM
from samplers.ddpm import DDPM
from samplers.dpm_solver import DPMpp2M
from samplers.euler import Euler, EulerAncestral
from samplers.grids import ENDINGS, GRIDS, Ending, grid
from samplers.heun import Heun
from samplers.levels import (
    ContinuousLevels,
    DiscreteLevels,
    Levels,
    alpha_bar,
    continuous_levels,
    discrete_levels,
    levels_of_betas,
    sigma_of,
)
from samplers.noise import seeded

__all__ = [
    "ENDINGS",
    "GRIDS",
    "SAMPLERS",
    "ContinuousLevels",
    "Denoiser",
    "DiscreteLevels",
    "Ending",
    "Levels",
    "Noise",
    "Sampler",
    "alpha_bar",
    "continuous_levels",
    "describe",
    "discrete_levels",
    "grid",
    "levels_of_betas",
    "make",
    "nfe",
    "run",
    "seeded",
    "sigma_of",
]

SAMPLERS: dict[str, type[Sampler]] = {
    "ddim": DDIM,
    "ddpm": DDPM,
    "dpmpp_2m": DPMpp2M,
    "euler": Euler,
    "euler_ancestral": EulerAncestral,
    "heun": Heun,
}


def make(name: str, **options: Any) -> Sampler:
    """The rule `name` with `options`; ValueError for an unknown name or option (with the nearest one) or bad value."""
    build = cast(Callable[..., Sampler], look_up("sampler", name, SAMPLERS))
    check_options(f"sampler {name!r}", build, options)
    return build(**options)


def describe(entry: Callable[..., object]) -> str:
    """The first line of the docstring of a registered class or function: what it is, in one line."""
    return (inspect.getdoc(entry) or "").partition("\n")[0]
