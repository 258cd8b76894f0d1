"""DEIS, the exponential Adams–Bashforth method in the model's time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import exp, log, prod

import numpy as np
import torch
from torch import Tensor

from samplers.adams import Node, along_noise
from samplers.base import Denoiser, Noise, Sampler
from samplers.checks import one_of
from samplers.clock import DEFAULT, Clock, clock
from samplers.levels import Levels
from samplers.multistep import History, Multistep

_POINTS, _SHARES = (values.tolist() for values in np.polynomial.legendre.leggauss(32))


@dataclass(frozen=True)
class DEIS(Multistep):
    """DEIS (tAB), Adams–Bashforth in the model's time: up to fourth order by looking back, one call per step.

    With ε_j the noise predicted at the last levels, t_j their times, ℓ_j the Lagrange polynomials in t and ⁺ for the
    next level:
        x⁺ = x + Σ_j ε_j ∫_σ^{σ⁺} ℓ_j(t(s)) ds

    `max_order` is the number of predictions a step uses, including the current one. `levels` is the model's noise
    schedule, Stable Diffusion v1's by default (`with_levels` sets it), and gives the time t(σ). Other implementations
    hard-code the weights of one process, with β from 0.1 to 20. The integrals are over log s by Gauss quadrature with
    32 nodes. Without a time, log σ takes its place. That is the form in diffusers (log-ρ), and at order 3 it is
    DPM-Solver-3M.

    The first steps use as many predictions as there are. The step to σ⁺ = 0, which has no time, is an Euler step. A
    table of timesteps is only piecewise smooth. At some hundreds of steps its corners show, and the order drops towards
    2. (Zhang and Chen 2023, arXiv:2204.13902, tAB-DEIS)

    With `lower_order_final`, in a run of fewer than 15 steps, the last step is an Euler step on any grid, and the one
    before it uses two predictions at most. This is the default of diffusers.

    Raises:
        ValueError: max_order is not 1, 2, 3 or 4, or lower_order_final is not True or False.
    """

    max_order: int = 3
    levels: Levels = field(default=DEFAULT, repr=False)
    _clock: Clock = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("DEIS.max_order", self.max_order, (1, 2, 3, 4))
        object.__setattr__(self, "_clock", clock(self.levels))

    @property
    def order(self) -> int:
        """`max_order`."""
        return self.max_order

    def with_levels(self, levels: Levels) -> Sampler:
        """The same sampler in the time of this noise schedule."""
        return replace(self, levels=levels)

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        memory: History | None,
        noise: Noise,
    ) -> tuple[Tensor, History]:
        """x at `sigma` -> x at `sigma_next`. Memory: the noise predicted at the last levels."""
        x0 = denoise(x, sigma)
        nodes, memory = (memory or History()).look_back(Node(sigma, x - x0), self.max_order)
        if sigma_next == 0 or len(nodes) == 1:
            return torch.lerp(x0, x, sigma_next / sigma), memory
        weights = time_weights(self._clock, tuple(node.sigma for node in nodes), sigma_next)
        return along_noise(x, x0, nodes, weights), memory


@lru_cache(maxsize=4096)  # every batch of a sweep takes the same steps
def time_weights(clock: Clock, sigmas: tuple[float, ...], sigma_next: float) -> tuple[float, ...]:
    """∫ ℓ_j(t(s)) ds from sigmas[0] to `sigma_next` > 0, with polynomials in t through the times of `sigmas`."""
    half = log(sigma_next / sigmas[0]) / 2
    levels = [sigmas[0] * exp(half * (1 + point)) for point in _POINTS]
    shares = [share * half * level for share, level in zip(_SHARES, levels, strict=True)]  # ds = s d log s
    at, times = [clock.t(level) for level in levels], [clock.t(sigma) for sigma in sigmas]
    weights = []
    for j, own in enumerate(times):
        others = times[:j] + times[j + 1 :]
        scale = 1 / prod(own - other for other in others)
        weights.append(scale * sum(share * prod(t - o for o in others) for share, t in zip(shares, at, strict=True)))
    return tuple(weights)
