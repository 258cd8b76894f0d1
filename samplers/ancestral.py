"""Ancestral samplers: a deterministic step to below the next level, then fresh noise up to it."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

from torch import Tensor

from samplers.base import Denoiser, Noise, Sampler, between
from samplers.checks import one_of, within
from samplers.dpm2 import DPM2
from samplers.dpm_solver_single import DPMpp2S
from samplers.euler import Euler
from samplers.flow_time import CLOCKS, ClockName

IN_FLOW_TIME = DPM2(clock="flow")


def split(q: float, eta: float) -> tuple[float, float]:
    """σ_down/σ⁺ and σ_up/σ⁺, for q = σ⁺/σ.

    With ⁺ for the next level:
        σ_up²   = min(σ⁺², η² σ⁺² (σ² − σ⁺²)/σ²)
        σ_down² = σ⁺² − σ_up²

    (Crowson 2022, k-diffusion)
    """
    up = min(1.0, eta * sqrt((1 - q) * (1 + q)))
    return sqrt((1 - up) * (1 + up)), up


def flow_split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """σ_down/σ⁺ and σ_up/σ⁺ of the rule for flow models, in the flow's own clock.

    With s = σ/(1 + σ), the time of a flow, and ⁺ for the next level:
        s_down = s⁺ max(0, 1 − η (1 − s⁺/s)),   σ_down = s_down/(1 − s_down)
        σ_up²  = σ⁺² − σ_down²

    (ComfyUI, `sample_euler_ancestral_RF`)
    """
    shorter = max(0.0, 1 - eta * (1 - sigma_next * (1 + sigma) / (sigma * (1 + sigma_next))))
    down = shorter / (1 + sigma_next * (1 - shorter))
    return down, sqrt((1 - down) * (1 + down))


@dataclass(frozen=True)
class _Ancestral(Sampler):
    """A step of the sampler `inner` from σ to σ_down, and noise σ_up z on top.

    Adding noise keeps the marginals exactly, so the samples have the law of the data at the order of `inner`. The rate
    at which the start is forgotten, and the path for a given noise, match the reverse SDE with η² times its noise to
    first order, or η times in the clock of a flow.
    """

    inner: ClassVar[Sampler]
    eta: float = 1.0
    clock: ClockName = "sigma"

    def __post_init__(self) -> None:
        within(f"{type(self).__name__}.eta", self.eta, 0)
        one_of(f"{type(self).__name__}.clock", self.clock, CLOCKS)

    @property
    def order(self) -> int:
        """The order of the deterministic step."""
        return self.inner.order

    @property
    def stochastic(self) -> bool:
        """True unless eta is 0."""
        return self.eta > 0

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: None, noise: Noise
    ) -> tuple[Tensor, None]:
        """x at `sigma` -> x at `sigma_next`. No memory."""
        if self.clock == "flow":
            down, up = flow_split(sigma, sigma_next, self.eta)
        else:
            down, up = split(sigma_next / sigma, self.eta)
        x_down, _ = self._inner().step(denoise, x, sigma, sigma_next * down, None, noise)
        if sigma_next * up > 0:  # each inner step returns a new tensor, so in-place is safe
            x_down.add_(between(noise, sigma, sigma_next, x), alpha=sigma_next * up)
        return x_down, None

    def _inner(self) -> Sampler:
        """The sampler of the deterministic step."""
        return self.inner


@dataclass(frozen=True)
class EulerAncestral(_Ancestral):
    """Euler to below the next level, then fresh noise up to it: first order, one call per step.

    With D = D(x, σ) and ⁺ for the next level:
        σ_up²   = min(σ⁺², η² σ⁺² (σ² − σ⁺²)/σ²)
        σ_down² = σ⁺² − σ_up²
        x⁺      = D + (σ_down/σ)(x − D) + σ_up z

    `eta` ≥ 0 scales the noise: 0 is Euler, 1 is the DDPM posterior. If that is more noise than the next level holds,
    all of that level's noise is drawn afresh.

    With `clock` "flow", the rule of flow models, σ_down is shorter in the time s = σ/(1 + σ) of a flow, and the
    variance of the noise grows with η, not η²:
        s_down = s⁺ max(0, 1 − η (1 − s⁺/s)),   σ_down = s_down/(1 − s_down),   σ_up² = σ⁺² − σ_down²

    (Crowson 2022, k-diffusion; `clock` "flow": ComfyUI, `sample_euler_ancestral_RF`)

    Raises:
        ValueError: eta is negative or not finite, or clock is neither "sigma" nor "flow".
    """

    inner: ClassVar[Sampler] = Euler()


@dataclass(frozen=True)
class DPM2Ancestral(_Ancestral):
    """DPM2 to below the next level, then fresh noise up to it: second order in law, two calls per step.

    With m = √(σ σ_down) and ⁺ for the next level:
        σ_up²   = min(σ⁺², η² σ⁺² (σ² − σ⁺²)/σ²)
        σ_down² = σ⁺² − σ_up²
        d       = (x − D(x, σ))/σ
        x_m     = x + (m − σ) d
        d_m     = (x_m − D(x_m, m))/m
        x⁺      = x + (σ_down − σ) d_m + σ_up z

    A step with σ_down = 0 (the step to 0, or all noise drawn afresh) is an Euler step, x⁺ = D(x, σ) + σ_up z, and makes
    one call. `eta` ≥ 0 scales the noise: 0 is DPM2. `clock` "flow" takes σ_down and σ_up as `euler_ancestral` does, and
    the step of `dpm2` with that clock. (Crowson 2022, k-diffusion; `clock` "flow": ComfyUI,
    `sample_dpm_2_ancestral_RF`)

    Raises:
        ValueError: eta is negative or not finite, or clock is neither "sigma" nor "flow".
    """

    inner: ClassVar[Sampler] = DPM2()

    def _inner(self) -> Sampler:
        return IN_FLOW_TIME if self.clock == "flow" else self.inner


@dataclass(frozen=True)
class DPMpp2SAncestral(_Ancestral):
    """DPM-Solver++(2S) to below the next level, then fresh noise: second order in law, two calls per step.

    With m = √(σ σ_down) and ⁺ for the next level:
        σ_up²   = min(σ⁺², η² σ⁺² (σ² − σ⁺²)/σ²)
        σ_down² = σ⁺² − σ_up²
        x_m     = D(x, σ)   + (m/σ)(x − D(x, σ))
        x⁺      = D(x_m, m) + (σ_down/σ)(x − D(x_m, m)) + σ_up z

    A step with σ_down = 0 (the step to 0, or all noise drawn afresh) is an Euler step, x⁺ = D(x, σ) + σ_up z, and makes
    one call. `eta` ≥ 0 scales the noise: 0 is DPM-Solver++(2S). `clock` "flow" takes σ_down and σ_up as
    `euler_ancestral` does. (Crowson 2022, k-diffusion; Lu et al. 2022,
    arXiv:2211.01095, Algorithm 1 with r = ½)

    Raises:
        ValueError: eta is negative or not finite, or clock is neither "sigma" nor "flow".
    """

    inner: ClassVar[Sampler] = DPMpp2S()
