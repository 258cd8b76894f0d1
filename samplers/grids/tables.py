"""Grids from published tables, and explicit grids.

A published table for K steps has K + 1 levels, and the ending replaces the lowest. For other numbers of steps it is
interpolated log-linearly, at even positions between the first level and the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

from samplers.checks import within
from samplers.levels import DiscreteLevels, Levels

# Timesteps of Stable Diffusion v1 and XL (of 1000) and levels of Stable Video Diffusion, for 10 steps, as the authors
# print them.
AYS_TIMESTEPS = {
    "sd15": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0),
}
AYS_VIDEO = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)

# The inner levels of each table. The first level is σ_max and the last is σ_min of Stable Diffusion v1.
GITS = {
    2: (0.803307,),
    3: (1.56271636, 0.52423614),
    4: (2.36326075, 0.92192322, 0.36617002),
    5: (2.84484982, 1.24153244, 0.59516323, 0.25053367),
    6: (5.85520077, 2.05039096, 0.95350921, 0.45573691, 0.17026083),
    7: (5.85520077, 2.45070267, 1.24153244, 0.64427125, 0.29807833, 0.09824532),
    8: (5.85520077, 2.45070267, 1.36964464, 0.803307, 0.45573691, 0.25053367, 0.09824532),
    9: (5.85520077, 2.84484982, 1.61558151, 0.95350921, 0.59516323, 0.36617002, 0.19894916, 0.09824532),
    10: (5.85520077, 2.84484982, 1.67050016, 1.08895338, 0.74807048, 0.50118381, 0.32104823, 0.19894916, 0.09824532),
    11: (
        5.85520077, 2.95596409, 1.84880662, 1.24153244, 0.83188516, 0.59516323, 0.41087446, 0.27464288, 0.17026083,
        0.09824532,
    ),
    12: (
        5.85520077, 3.07277966, 1.98035145, 1.36964464, 0.95350921, 0.69515091, 0.50118381, 0.36617002, 0.25053367,
        0.17026083, 0.09824532,
    ),
    13: (
        6.77309084, 3.46139455, 2.36326075, 1.56271636, 1.08895338, 0.803307, 0.59516323, 0.45573691, 0.34370604,
        0.25053367, 0.17026083, 0.09824532,
    ),
    14: (
        6.77309084, 3.46139455, 2.45070267, 1.61558151, 1.162866, 0.86115354, 0.64427125, 0.50118381, 0.38853383,
        0.29807833, 0.22545385, 0.17026083, 0.09824532,
    ),
    15: (
        7.49001646, 4.65472794, 3.07277966, 2.12350607, 1.51179266, 1.08895338, 0.83188516, 0.64427125, 0.50118381,
        0.38853383, 0.29807833, 0.22545385, 0.17026083, 0.09824532,
    ),
    16: (
        7.49001646, 4.65472794, 3.07277966, 2.12350607, 1.51179266, 1.08895338, 0.83188516, 0.64427125, 0.50118381,
        0.41087446, 0.32104823, 0.25053367, 0.19894916, 0.13792117, 0.09824532,
    ),
    17: (
        7.49001646, 4.65472794, 3.07277966, 2.12350607, 1.51179266, 1.08895338, 0.83188516, 0.64427125, 0.50118381,
        0.41087446, 0.34370604, 0.27464288, 0.22545385, 0.17026083, 0.13792117, 0.09824532,
    ),
    18: (
        7.49001646, 4.65472794, 3.07277966, 2.19988537, 1.61558151, 1.20157266, 0.92192322, 0.72133851, 0.57119018,
        0.45573691, 0.36617002, 0.29807833, 0.25053367, 0.19894916, 0.17026083, 0.13792117, 0.09824532,
    ),
    19: (
        7.49001646, 4.65472794, 3.07277966, 2.19988537, 1.61558151, 1.24153244, 0.95350921, 0.74807048, 0.59516323,
        0.4783645, 0.38853383, 0.32104823, 0.27464288, 0.22545385, 0.19894916, 0.17026083, 0.13792117, 0.09824532,
    ),
    20: (
        7.49001646, 4.65472794, 3.07277966, 2.19988537, 1.61558151, 1.24153244, 0.95350921, 0.74807048, 0.59516323,
        0.50118381, 0.41087446, 0.34370604, 0.29807833, 0.25053367, 0.22545385, 0.19894916, 0.17026083, 0.13792117,
        0.09824532,
    ),
}  # fmt: skip


def ays(steps: int, levels: Levels, table: str = "sd15") -> tuple[float, ...]:
    """Align Your Steps: the 10-step table that minimises a bound on the divergence from the data distribution.

    `table` is "sd15", "sdxl" (both in timesteps of a model of 1000) or "svd" (in σ, 700 to 0.002).
    (Sabour et al. 2024, arXiv:2404.14507)

    Raises:
        ValueError: the table is unknown, or is for another noise schedule than the model's.
    """
    if table == "svd":
        printed: Sequence[float] = AYS_VIDEO
        _check_range("ays", levels, printed[-1], printed[0])
    elif table not in AYS_TIMESTEPS:
        raise ValueError(f"ays.table must be one of sd15, sdxl and svd, got {table!r}")
    elif isinstance(levels, DiscreteLevels) and levels.n == 1000:
        printed = [levels.sigmas[t] for t in AYS_TIMESTEPS[table]]
    else:
        raise ValueError(f"grid 'ays' with table {table!r} lists timesteps and needs a model with 1000 of them")
    return stretched(printed, steps + 1)[:-1]


def gits(steps: int, levels: Levels) -> tuple[float, ...]:
    """Geometry-inspired time schedules for Stable Diffusion v1: the tables of 2 to 20 steps, at coefficient 1.20.

    Found by dynamic programming on the shape of a teacher's path. Above 20 steps the last table is interpolated
    log-linearly. (Chen et al. 2024, arXiv:2405.11326)

    Raises:
        ValueError: the tables are for another noise schedule than the model's.
    """
    _check_range("gits", levels, 0.02916753, 14.61464119)
    if steps == 1:
        return (levels.sigma_max,)
    table = (levels.sigma_max, *GITS[min(steps, max(GITS))], levels.sigma_min)
    return stretched(table, steps + 1)[:-1]


def explicit(
    steps: int, levels: Levels, sigmas: Sequence[float] = (), timesteps: Sequence[float] = ()
) -> tuple[float, ...]:
    """Explicit levels, highest first: `sigmas`, or `timesteps` of the model's table.

    All must be above 0. With the ending "to_zero" there is one level per step, otherwise one more.

    Raises:
        ValueError: the number of levels is wrong, the last is not above 0, or not exactly one of the two is given.
    """
    if bool(len(sigmas)) == bool(len(timesteps)):
        raise ValueError("grid 'explicit' needs either sigmas or timesteps")
    if len(timesteps) and not isinstance(levels, DiscreteLevels):
        raise ValueError("explicit.timesteps needs discrete levels")
    given = [levels.sigma(t) for t in timesteps] if isinstance(levels, DiscreteLevels) and timesteps else sigmas
    if len(given) != steps:
        raise ValueError(f"grid 'explicit' lists {len(given)} levels, but {steps} are needed")
    if not given[-1] > 0:
        raise ValueError(f"grid 'explicit' must end above 0, got {given[-1]!r}; the ending adds the 0")
    for sigma in sigmas:
        within("explicit.sigmas: each", float(sigma), 0)
    return tuple(float(sigma) for sigma in given)


def stretched(table: Sequence[float], count: int) -> tuple[float, ...]:
    """`count` levels interpolated log-linearly from a table. The ends, and a table of that length, are unchanged."""
    if count == len(table):
        return tuple(table)
    logs = [log(sigma) for sigma in table]
    inner = []
    for i in range(1, count - 1):
        place = i * (len(table) - 1) / (count - 1)
        low = min(int(place), len(table) - 2)
        inner.append(exp(logs[low] + (place - low) * (logs[low + 1] - logs[low])))
    return (table[0], *inner, table[-1])[:count]


def _check_range(name: str, levels: Levels, low: float, high: float) -> None:
    near = abs(levels.sigma_min / low - 1) < 0.01 and abs(levels.sigma_max / high - 1) < 0.01
    if not near:
        span = f"{levels.sigma_min:.6g} to {levels.sigma_max:.6g}"
        raise ValueError(f"grid {name!r} is a table for sigma from {low:.4g} to {high:.6g}, but this model has {span}")
