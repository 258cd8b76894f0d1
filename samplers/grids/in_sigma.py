"""Grids spaced in σ or a function of σ. Each returns its positive levels as floats, highest first.

N levels, i = 0 … N−1, and the share s = 1 − i/(N−1) that falls from 1 to 0 (1 alone for a single level).
"""

from __future__ import annotations

from collections.abc import Callable
from math import atan, exp, log, tan

from samplers.checks import positive, within
from samplers.grids.in_time import beta_quantile
from samplers.levels import Levels


def karras(steps: int, levels: Levels, rho: float = 7.0) -> tuple[float, ...]:
    """Even in σ^(1/ρ): fine near the data, coarse in the noise.

    σ_i = (σ_max^{1/ρ} + i/(steps−1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ, 0 ≤ i < steps, and ρ > 0.
    (Karras et al. 2022, arXiv:2206.00364, eq. 5)
    """
    positive("karras.rho", rho)
    return even_in(lambda sigma: sigma ** (1 / rho), lambda u: u**rho, steps, levels)


def exponential(steps: int, levels: Levels) -> tuple[float, ...]:
    """Even in log σ, and so in log-SNR: each step scales σ by the same factor.

    (Lu et al. 2022, arXiv:2206.00927, uniform λ)
    """
    return even_in(log, exp, steps, levels)


def polyexponential(steps: int, levels: Levels, rho: float = 1.0) -> tuple[float, ...]:
    """A power of the share in log σ: ln σ = ln σ_min + s^ρ (ln σ_max − ln σ_min); ρ = 1 is `exponential`.

    Above 1 it is fine near the data, below 1 in the noise; ρ > 0. (Crowson 2022, k-diffusion)
    """
    positive("polyexponential.rho", rho)
    low, high = log(levels.sigma_min), log(levels.sigma_max)
    return _between(lambda share: exp(low + share**rho * (high - low)), steps, levels)


def kl_optimal(steps: int, levels: Levels, std: float = 1.0) -> tuple[float, ...]:
    """Even in arctan(σ/std): optimal for Gaussian data of standard deviation `std` > 0.

    σ = std tan(s arctan(σ_max/std) + (1−s) arctan(σ_min/std))  (Sabour et al. 2024, arXiv:2404.14507)
    """
    positive("kl_optimal.std", std)
    return even_in(lambda sigma: atan(sigma / std), lambda angle: std * tan(angle), steps, levels)


def laplace(steps: int, levels: Levels, mu: float = 0.0, beta: float = 0.5) -> tuple[float, ...]:
    """Quantiles of a Laplace distribution of ln σ, densest near ln σ = mu.

    p(ln σ) ∝ exp(−|ln σ − mu|/beta), truncated to the model's range so that both ends are levels; beta > 0. (Hang et
    al. 2024, arXiv:2407.03297, as a weighting of the levels in training)
    """
    within("laplace.mu", mu, -20, 20)
    positive("laplace.beta", beta)
    low, high = (_laplace_share((log(end) - mu) / beta) for end in (levels.sigma_min, levels.sigma_max))
    return _between(lambda share: exp(mu + beta * _laplace_quantile(low + share * (high - low))), steps, levels)


def beta_sigma(steps: int, levels: Levels, alpha: float = 0.6, beta: float = 0.6) -> tuple[float, ...]:
    """Quantiles of a Beta(alpha, beta) distribution of σ itself, dense at both ends if alpha and beta are below 1.

    σ = σ_min + (σ_max − σ_min) F⁻¹(s), alpha and beta above 0. In the paper the distribution is over time, which is the
    grid `beta`. diffusers and A1111 use σ. (Lee et al. 2024, arXiv:2407.12173)
    """
    positive("beta_sigma.alpha", alpha)
    positive("beta_sigma.beta", beta)
    low, span = levels.sigma_min, levels.sigma_max - levels.sigma_min
    return _between(lambda share: low + span * beta_quantile(share, alpha, beta), steps, levels)


def flow(steps: int, levels: Levels, shift: float = 1.0, last: float | None = None) -> tuple[float, ...]:
    """Even in the time of a rectified flow, shifted towards noise by `shift` > 0 as for larger images.

    With σ = t/(1−t) and t = shift u/(1 + (shift−1) u), u falls evenly from its value at σ_max to its value at σ_min in
    N steps, the last of which is the ending. (Esser et al. 2024, arXiv:2403.03206, eq. 23)

    With `last` the lowest level is that of the time t = last, and u falls evenly to it in N − 1 steps. The SDE of SiT
    takes 0.04. (Ma et al. 2024, arXiv:2401.08740)

    Raises:
        ValueError: shift is not above 0, or last is not a time below that of σ_max.
    """
    positive("flow.shift", shift)
    high, low = (sigma / (shift + sigma) for sigma in (levels.sigma_max, levels.sigma_min))  # u of the two ends
    count = steps
    if last is not None:
        top = levels.sigma_max / (1 + levels.sigma_max)
        if not 0 < last < top:
            raise ValueError(f"flow.last must be a time above 0 and below {top:.4g}, that of sigma_max, got {last!r}")
        low, count = last / (shift + (1 - shift) * last), max(steps - 1, 1)
    inner = (high + i / count * (low - high) for i in range(1, steps))
    return (levels.sigma_max, *(shift * u / (1 - u) for u in inner))


def linear_quadratic(
    steps: int, levels: Levels, threshold: float = 0.025, linear_steps: int | None = None
) -> tuple[float, ...]:
    """The first steps small and even in the time of a rectified flow, the others growing quadratically.

    With σ = t/(1−t), t = t_max − r (t_max − t_min): r rises by threshold/L in each of L `linear_steps` (half of N by
    default), and then as threshold + (threshold/L) j + c j², j = i − L, to 1 at i = N, which is the ending. (Polyak et
    al. 2024, arXiv:2410.13720)

    Raises:
        ValueError: threshold is not between 0 and 1, or linear_steps not between 1 and N − 1.
    """
    high, low = (sigma / (1 + sigma) for sigma in (levels.sigma_max, levels.sigma_min))
    times = (high - r * (high - low) for r in linear_quadratic_shares(steps, threshold, linear_steps)[1:])
    return (levels.sigma_max, *(t / (1 - t) for t in times))


def bong_tangent(
    steps: int, levels: Levels, middle: float = 0.5, pivot: float = 0.6, slope: float = 0.2
) -> tuple[float, ...]:
    """Two arctangents in the time of a rectified flow, which meet at `middle`: RES4LYF's grid of that name.

    With σ = t/(1−t), t = t_min + u (t_max − t_min). With n = N + 2, u falls from 1 to `middle` over the first ⌊pivot n⌋
    of n − 1 points, and to 0 over the others, which is the ending. Both parts are stretches of −arctan(40 slope
    (i − ⌊pivot n⌋)/n) in the point i. RES4LYF takes u for σ itself, whatever the model; that is right for a flow alone,
    and would start Stable Diffusion at σ = 1. (ClownsharkBatwing 2025, res4lyf)

    Raises:
        ValueError: middle or pivot is not between 0 and 1, slope is not in [0.001, 100], or a part has too few
            points.
    """
    shares = bong_tangent_shares(steps, middle, pivot, slope)
    high, low = (sigma / (1 + sigma) for sigma in (levels.sigma_max, levels.sigma_min))
    times = (low + share * (high - low) for share in shares[1:])
    return (levels.sigma_max, *(t / (1 - t) for t in times))


def bong_tangent_shares(steps: int, middle: float, pivot: float, slope: float) -> list[float]:
    """u of `bong_tangent`, from 1 down, without its end at 0.

    Raises:
        ValueError: as for `bong_tangent`.
    """
    for name, value in (("middle", middle), ("pivot", pivot)):
        if not 0 < value < 1:
            raise ValueError(f"bong_tangent.{name} must be between 0 and 1, got {value!r}")
    within("bong_tangent.slope", slope, 1e-3, 100)
    if steps == 1:
        return [1.0]
    n = steps + 2
    turn = int(pivot * n)
    if not 2 <= turn <= n - 2:
        raise ValueError(f"bong_tangent.pivot must leave 2 points on either side at {steps} steps, got {pivot!r}")

    def part(count: int, centre: int, start: float, end: float) -> list[float]:
        curve = [-atan(40 * slope / n * (i - centre)) for i in range(count)]
        return [end + (value - curve[-1]) / (curve[0] - curve[-1]) * (start - end) for value in curve]

    return [*part(turn, turn, 1.0, middle)[:-1], *part(n - turn, 0, middle, 0.0)[:-1]]


def linear_quadratic_shares(steps: int, threshold: float, linear_steps: int | None) -> list[float]:
    """r of `linear_quadratic`: the share of the way covered before each step.

    Raises:
        ValueError: as for `linear_quadratic`.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"linear_quadratic.threshold must be between 0 and 1, got {threshold!r}")
    if steps == 1:
        return [0.0]
    linear = steps // 2 if linear_steps is None else linear_steps
    if not 0 < linear < steps:
        raise ValueError(f"linear_quadratic.linear_steps must be between 1 and {steps - 1}, got {linear!r}")
    slope, rest = threshold / linear, steps - linear
    curve = (1 - threshold - slope * rest) / rest**2
    return [slope * i + curve * max(i - linear, 0) ** 2 for i in range(steps)]


def even_in(
    scale: Callable[[float], float], inverse: Callable[[float], float], steps: int, levels: Levels
) -> tuple[float, ...]:
    """`steps` levels from σ_max to σ_min, evenly spaced on `scale`. Both ends are exact."""
    top, low = scale(levels.sigma_max), scale(levels.sigma_min)
    inner = (inverse(top + i / (steps - 1) * (low - top)) for i in range(1, steps - 1))
    return (levels.sigma_max, *inner, levels.sigma_min)[:steps]


def _between(curve: Callable[[float], float], steps: int, levels: Levels) -> tuple[float, ...]:
    """`steps` levels from σ_max to σ_min along `curve`(share). Both ends are exact."""
    return (levels.sigma_max, *(curve(1 - i / (steps - 1)) for i in range(1, steps - 1)), levels.sigma_min)[:steps]


def _laplace_share(u: float) -> float:
    return exp(u) / 2 if u < 0 else 1 - exp(-u) / 2


def _laplace_quantile(share: float) -> float:
    return log(2 * share) if share < 0.5 else -log(2 - 2 * share)
