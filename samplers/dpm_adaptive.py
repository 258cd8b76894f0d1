"""DPM-Solver-12 and -23 with adaptive steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log, sqrt
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from samplers.base import AdaptiveSampler, Denoiser, Noise, Sampler
from samplers.checks import one_of, positive, within
from samplers.denoiser import is_held


class Control(NamedTuple):
    """The controller state per image: the step in log σ, the last two errors and the previous state."""

    h: Tensor  # (B,) float64, on the CPU like the errors
    error: Tensor
    error_before: Tensor
    x_before: Tensor


@dataclass(frozen=True)
class DPMSolverAdaptive(AdaptiveSampler):
    """DPM-Solver-12 or -23 with adaptive steps per image: order 2 or 3 in its steps.

    Two estimates of x⁺ share their calls. With λ = −log σ, h = λ⁺ − λ, ⁺ for the next level, φ_k at h
    (φ₁ = (e^h − 1)/h, φ₂ = (φ₁ − 1)/h), and ε₁, ε₂ the noise predicted at the inner levels r₁ and r₂ as in
    DPM-Solver-2 and -3:
        12:  low  = x − σ⁺ h φ₁ ε                        r₁ = ½
             high = low − σ⁺ h φ₁ (ε₁ − ε)/(2 r₁)
        23:  low  = x − σ⁺ h φ₁ [ε + (ε₁ − ε)/(2 r₁)]    r₁ = ⅓
             high = x − σ⁺ h [φ₁ ε + φ₂ (ε₂ − ε)/r₂]     r₂ = ⅔

    Their distance, averaged over the pixels of one image, controls that image's step size, with x′ the previous low
    estimate:
        e = √ mean [(low − high)/max(atol, rtol max(|low|, |x′|))]²
        h ← h (1 + arctan(g − 1)),   g = e^{−(P+I+D)/p} e′^{(P+2D)/p} e″^{−D/p},   p = 2 or 3

    e′ and e″ are the errors of the previous two accepted steps, initially 1. This is a PID controller (Söderlind 2003,
    doi:10.1145/641876.641877, in the form of Crowson 2022, k-diffusion). The step is accepted, with the high estimate,
    unless h would shrink below `safety` times its value. Otherwise it is tried again.

    `pair` is "12" (two calls per try) or "23" (three calls). `rtol` and `atol` bound the error of a step. `h_init` is
    the first step in log σ. `pcoeff`, `icoeff` and `dcoeff` are P, I and D. The denoiser is called with one level per
    image, of shape (B,). Images that are at the next level of the grid wait there for the others of their batch, and a
    denoiser with `hold` leaves them out. The paper and its code average over the batch, so there an image depends on
    the others in its batch.

    The sampler stops at every level of the grid and chooses its steps in between. A grid of the first level, the last
    positive level and 0 is enough. The step to σ⁺ = 0 is an Euler step. (Lu et al. 2022, arXiv:2206.00927, appendix C)

    Raises:
        ValueError: an option is out of range, or at the first step rtol is below the precision of x.
        RuntimeError: the error of a step cannot be reduced, for example because the denoiser is not finite.
    """

    pair: Literal["12", "23"] = "23"
    rtol: float = 0.05
    atol: float = 0.0078
    h_init: float = 0.05
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    safety: float = 0.81

    def __post_init__(self) -> None:
        one_of("DPMSolverAdaptive.pair", self.pair, ("12", "23"))
        for name in ("rtol", "atol", "h_init"):
            positive(f"DPMSolverAdaptive.{name}", getattr(self, name))
        for name in ("pcoeff", "icoeff", "dcoeff"):
            within(f"DPMSolverAdaptive.{name}", getattr(self, name), 0)
        within("DPMSolverAdaptive.safety", self.safety, 0, 1)

    @property
    def order(self) -> int:
        """The order of the higher estimate: 2 or 3."""
        return 2 if self.pair == "12" else 3

    def with_tolerance(self, rtol: float) -> Sampler:
        """The same sampler with `rtol`, and a tenth of it as `atol`."""
        return replace(self, rtol=rtol, atol=rtol / 10)

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Control | None, noise: Noise
    ) -> tuple[Tensor, Control | None]:
        """x at `sigma` -> x at `sigma_next`, in as many tries as needed. Memory: the controller state per image.

        Raises:
            ValueError: `rtol` is below the precision of x.
            RuntimeError: the error of a step cannot be reduced.
        """
        if sigma_next == 0:
            return torch.lerp(denoise(x, sigma), x, 0.0), memory
        eps = torch.finfo(x.dtype).eps
        if self.rtol < eps:
            raise ValueError(
                f"DPMSolverAdaptive.rtol must be at least {eps:.2g}, the precision of {x.dtype}, got {self.rtol!r}"
            )
        ones = torch.ones(len(x), dtype=torch.float64)
        h, error, error_before, x_before = memory or Control(self.h_init * ones, ones, ones, x)
        begin, end = -log(sigma), -log(sigma_next)
        here, smallest = begin * ones, sqrt(eps)  # below it h² is lost to rounding
        while (going := here < end).any():
            if is_held(denoise):
                denoise.hold((~going).tolist())
            last = here + h >= end
            start = torch.where(going, here, begin)  # images that wait are given a valid level
            size = torch.where(last | ~going, end - start, h)
            low, high = self._pair(denoise, x, start, torch.where(last | ~going, end, start + size), size)
            found = self._error(low, high, x_before)
            factor = self._factor(found, error, error_before)
            taken = going & (factor >= self.safety)
            if not torch.isfinite(found[going]).all() or ((size * factor)[going & ~taken] < smallest).any():
                raise RuntimeError(
                    f"dpm_adaptive cannot bring the error of a step below its tolerances near sigma "
                    f"{torch.exp(-here[going]).max().item():.4g}: rtol {self.rtol}, atol {self.atol}"
                )
            image = _column(taken, x)
            x_before, x = torch.where(image, low, x_before), torch.where(image, high, x)
            error_before, error = torch.where(taken, error, error_before), torch.where(taken, found, error)
            here = torch.where(taken, torch.where(last, end, here + size), here)
            h = torch.where(going & ~(taken & last), size * factor, h)
        if is_held(denoise):
            denoise.hold([False] * len(x))
        return x, Control(h, error, error_before, x_before)

    def _pair(self, denoise: Denoiser, x: Tensor, start: Tensor, end: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The low and the high estimate of x at λ = `end`, one level per image."""
        s, t = torch.exp(-start), torch.exp(-end)
        eps = self._noise(denoise, x, s)
        euler = x + _column(t - s, x) * eps
        if self.pair == "12":
            s1 = torch.exp(-(start + h / 2))
            d1 = self._noise(denoise, x + _column(s1 - s, x) * eps, s1) - eps
            return euler, euler + _column(t - s, x) * d1
        s1, s2 = torch.exp(-(start + h / 3)), torch.exp(-(start + h * 2 / 3))
        d1 = self._noise(denoise, x + _column(s1 - s, x) * eps, s1) - eps
        u2 = x + _column(s2 - s, x) * eps - _column(2 * _second(s2, h * 2 / 3), x) * d1
        d2 = self._noise(denoise, u2, s2) - eps
        return euler + _column((t - s) * 1.5, x) * d1, euler - _column(1.5 * _second(t, h), x) * d2

    def _noise(self, denoise: Denoiser, x: Tensor, sigma: Tensor) -> Tensor:
        levels = cast(Any, sigma.to(x))  # one per image, as Denoiser allows
        return (x - denoise(x, levels)) / _column(sigma, x)

    def _error(self, low: Tensor, high: Tensor, before: Tensor) -> Tensor:
        """e per image, (B,), float64, on the CPU."""
        scale = (self.rtol * torch.maximum(low.abs(), before.abs())).clamp(min=self.atol)
        return ((low - high) / scale).reshape(len(low), -1).double().square().mean(1).sqrt().cpu()

    def _factor(self, error: Tensor, before: Tensor, before_that: Tensor) -> Tensor:
        """The growth factor of the step per image, (B,)."""
        p, i, d = self.pcoeff, self.icoeff, self.dcoeff
        powers = ((error, p + i + d), (before, -p - 2 * d), (before_that, d))
        growth = torch.ones_like(error)
        for value, power in powers:
            growth = growth * value.clamp(min=1e-8) ** (-power / self.order)
        return 1 + torch.atan(growth - 1)


def _second(sigma: Tensor, h: Tensor) -> Tensor:
    """σ⁺ h φ₂(h), the weight of a slope in λ; by its series where the difference would cancel."""
    series = h * (1 / 2 + h * (1 / 6 + h * (1 / 24 + h * (1 / 120 + h / 720))))
    return sigma * torch.where(h < 0.01, series, torch.expm1(h) / h - 1)


def _column(values: Tensor, x: Tensor) -> Tensor:
    """(B,) reshaped to broadcast against x."""
    values = values.to(x.device) if values.dtype == torch.bool else values.to(x)
    return values.reshape(-1, *[1] * (x.ndim - 1))
