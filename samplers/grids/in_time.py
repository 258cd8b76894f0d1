"""Grids spaced in the model's time t. Each returns its positive levels as floats, highest first.

With n timesteps t = 0 … n−1 (or a continuous time from t_min to t_max), N levels and i = 0 … N−1. Between two timesteps
of a table σ is interpolated log-linearly, as in `DiscreteLevels.t`, so the network is called at exactly these t.
"""

from __future__ import annotations

from samplers.checks import positive, whole
from samplers.levels import DiscreteLevels, Levels, TimedLevels


def leading(steps: int, levels: Levels, offset: int = 0) -> tuple[float, ...]:
    """Even integer timesteps from the low end: t = i ⌊n/steps⌋ + offset; starts below σ_max.

    The spacing of the DDIM code (Song, Meng, Ermon 2021, arXiv:2010.02502), named in Lin et al. 2023 (arXiv:2305.08891,
    Table 2). Stable Diffusion v1 was published with offset 1.

    Raises:
        ValueError: the first timestep is beyond the table.
    """
    whole("leading.offset", offset, 0)
    return _from_below("leading", steps, levels, offset)


def ddim_uniform(steps: int, levels: Levels) -> tuple[float, ...]:
    """Stable Diffusion's original spacing: `leading` with offset 1.

    t = i ⌊n/N⌋ + 1  (the sampler of Rombach et al. 2022, arXiv:2112.10752). That code takes every t below n, which
    gives more than N levels if N does not divide n. The dialect "comfyui" does the same.
    """
    return _from_below("ddim_uniform", steps, levels, 1)


def linspace(steps: int, levels: Levels) -> tuple[float, ...]:
    """Even timesteps from the last to the first, fractional ones included.

    (Lin et al. 2023, arXiv:2305.08891, Table 2, unrounded)
    """
    time = timed("linspace", steps, levels)
    span = time.t_max - time.t_min
    return tuple(_sigma(time, time.t_max - span * i / max(steps - 1, 1)) for i in range(steps))


def trailing(steps: int, levels: Levels) -> tuple[float, ...]:
    """Even integer timesteps from the high end: t = round(n − i n/steps) − 1; starts at σ_max.

    In a continuous time this becomes `sgm_uniform`.  (Lin et al. 2023, arXiv:2305.08891, Table 2)
    """
    time = timed("trailing", steps, levels)
    if not isinstance(time, DiscreteLevels):
        return sgm_uniform(steps, time)
    return tuple(time.sigmas[round(time.n - i * time.n / steps) - 1] for i in range(steps))


def simple(steps: int, levels: Levels) -> tuple[float, ...]:
    """Even integer timesteps from the high end, rounded the other way: t = n − 1 − ⌊i n/N⌋.

    ComfyUI's grid of that name. Equal to `trailing` if N divides n.
    """
    table = table_of("simple", steps, levels)
    return tuple(table.sigmas[table.n - 1 - i * table.n // steps] for i in range(steps))


def sgm_uniform(steps: int, levels: Levels) -> tuple[float, ...]:
    """Even fractional timesteps, N + 1 of them from the last to the first, without the first.

    t = t_max − (t_max − t_min) i/N. The spacing of Stability AI's generative-models, close to `trailing`.
    """
    time = timed("sgm_uniform", steps, levels)
    span = time.t_max - time.t_min
    return tuple(_sigma(time, time.t_max - span * i / steps) for i in range(steps))


def time_quadratic(steps: int, levels: Levels) -> tuple[float, ...]:
    """Even in √t, fine near the data: t = t_min + (t_max − t_min) (1 − i/(N−1))², fractional.

    (The quadratic spacing of Song, Meng, Ermon 2021, arXiv:2010.02502, appendix D, unrounded and up to t_max)
    """
    time = timed("time_quadratic", steps, levels)
    span = time.t_max - time.t_min
    return tuple(_sigma(time, time.t_min + span * (1 - i / max(steps - 1, 1)) ** 2) for i in range(steps))


def turbo(steps: int, levels: Levels) -> tuple[float, ...]:
    """The training timesteps of a distilled model: for four steps 999, 749, 499, 249.

    t = round((N − i) n/N) − 1  (Sauer et al. 2023, arXiv:2311.17042). Another name for `trailing`. The dialect
    "comfyui" always uses tenths and stops early.
    """
    return trailing(steps, table_of("turbo", steps, levels))


def beta(steps: int, levels: Levels, alpha: float = 0.6, beta: float = 0.6) -> tuple[float, ...]:
    """Quantiles of a Beta(alpha, beta) distribution of time, dense at both ends if alpha and beta are below 1.

    t = t_min + (t_max − t_min) F⁻¹(1 − i/N), unrounded; alpha and beta above 0.  (Lee et al. 2024, arXiv:2407.12173)
    Half of the projects with a grid of this name apply it to σ. See `beta_sigma` and the dialects.
    """
    positive("beta.alpha", alpha)
    positive("beta.beta", beta)
    return _quantiles("beta", steps, levels, alpha, beta)


def beta57(steps: int, levels: Levels) -> tuple[float, ...]:
    """`beta` with alpha 0.5 and beta 0.7, denser near the data: RES4LYF's grid of that name.

    RES4LYF rounds the timesteps, as the dialect "comfyui" does. (Lee et al. 2024, arXiv:2407.12173; ClownsharkBatwing
    2025, res4lyf)
    """
    return _quantiles("beta57", steps, levels, 0.5, 0.7)


def _quantiles(name: str, steps: int, levels: Levels, alpha: float, beta: float) -> tuple[float, ...]:
    time = timed(name, steps, levels)
    span = time.t_max - time.t_min
    return tuple(_sigma(time, time.t_min + span * beta_quantile(1 - i / steps, alpha, beta)) for i in range(steps))


def beta_quantile(share: float, alpha: float, beta: float) -> float:
    """F⁻¹(share) of the Beta(alpha, beta) distribution, in [0, 1]."""
    from scipy.special import betaincinv  # slow to import

    return min(float(betaincinv(alpha, beta, share)), 1.0)


def timed(name: str, steps: int, levels: Levels) -> TimedLevels:
    """`levels` as a noise schedule with a time.

    Raises:
        ValueError: they have no time, or `steps` exceeds the model's number of timesteps.
    """
    if not isinstance(levels, TimedLevels):
        raise ValueError(f"grid {name!r} is spaced in time and needs a noise schedule with a time")
    if isinstance(levels, DiscreteLevels):
        _check_count(name, steps, levels)
    return levels


def _sigma(time: TimedLevels, t: float) -> float:
    """σ at `t`, clamped to the range against rounding."""
    return time.sigma(min(max(t, time.t_min), time.t_max))


def _from_below(name: str, steps: int, levels: Levels, offset: int) -> tuple[float, ...]:
    table = table_of(name, steps, levels)
    stride = table.n // steps
    top = (steps - 1) * stride + offset
    if top >= table.n:
        raise ValueError(
            f"grid {name!r} with {steps} levels, offset {offset} starts at timestep {top}; the last is {table.n - 1}"
        )
    return tuple(table.sigmas[i * stride + offset] for i in reversed(range(steps)))


def table_of(name: str, steps: int, levels: Levels) -> DiscreteLevels:
    """`levels` as a table of timesteps.

    Raises:
        ValueError: they are not discrete, or `steps` exceeds the number of timesteps.
    """
    if not isinstance(levels, DiscreteLevels):
        raise ValueError(f"grid {name!r} is spaced in timesteps and needs discrete levels")
    _check_count(name, steps, levels)
    return levels


def _check_count(name: str, steps: int, levels: DiscreteLevels) -> None:
    if steps > levels.n:
        raise ValueError(f"grid {name!r} cannot have {steps} levels: the model has {levels.n} timesteps")
