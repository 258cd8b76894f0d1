"""Reference solutions of the probability flow, for any denoiser and accuracy.

With λ = −log σ the flow is dx/dλ = D(x, σ) − x, without small divisors as σ → 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import exp, log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samplers.base import Denoiser, run
from samplers.grids.registry import grid
from samplers.levels import continuous_levels
from samplers.unipc import UniPC


@torch.no_grad()
def reference(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], rtol: float = 1e-10) -> Tensor:
    """The flow of x, shape (B, …), from the first of `sigmas` to the last: the limit of every deterministic sampler.

    The Dormand–Prince method of order 8 (SciPy's DOP853) in log σ, in float64, with one error for the whole batch. The
    levels in between are not used. If the last of `sigmas` is 0, the step to it is an Euler step, x̂₀ = D(x, σ), as in
    the samplers in λ. A comparison then measures the steps, not the ending. Samplers that are polynomials in σ
    integrate down to 0 and end closer to the true flow.

    The result is float64 on the device of x. A lower-precision denoiser needs a larger `rtol`.

    Raises:
        ValueError: `sigmas` has no step.
        RuntimeError: the denoiser is not finite, or the integration fails.
    """
    from scipy.integrate import solve_ivp  # slow to import

    top, low = _span(sigmas)
    exact = x.double()
    if low < top and x.numel():

        def velocity(level: float, flat: NDArray[np.float64]) -> NDArray[np.float64]:
            at = torch.from_numpy(flat).reshape(exact.shape).to(exact.device)
            slope = denoise(at, exp(-level)).double() - at
            if not slope.isfinite().all():  # SciPy would shrink its steps forever
                raise RuntimeError(f"no reference from sigma {top} to {low}: not finite at sigma {exp(-level):.4g}")
            return slope.flatten().cpu().numpy()

        first = exact.flatten().cpu().numpy()
        path = solve_ivp(velocity, (-log(top), -log(low)), first, method="DOP853", rtol=rtol, atol=rtol)
        if not path.success:
            raise RuntimeError(f"no reference from sigma {top} to {low}: {path.message}")
        exact = torch.from_numpy(path.y[:, -1]).reshape(exact.shape).to(exact.device)
    return denoise(exact, low).double() if sigmas[-1] == 0 else exact


def converged(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], steps: int = 500) -> Tensor:
    """`reference` for a network: UniPC-3 with `steps` steps even in log σ, in the precision of x, with the same ending.

    Returns float64 if x is float64, otherwise float32.

    Raises:
        ValueError: `sigmas` has no step.
    """
    return run(CONVERGING, denoise, x, fine_grid(sigmas, steps))


CONVERGING = UniPC(max_order=3)


def fine_grid(sigmas: Sequence[float], steps: int = 500) -> list[float]:
    """The levels of `converged`: even in log σ from the first of `sigmas` to the last above 0, then 0 if they end at 0.

    Raises:
        ValueError: `sigmas` has no step.
    """
    top, low = _span(sigmas)
    levels = [top]
    if low < top:
        even = grid("exponential", steps=steps, levels=continuous_levels(low, top), ending="stop_at_sigma_min")
        levels = eased(even)
    return [*levels, 0.0] if sigmas[-1] == 0 else levels


def eased(sigmas: Sequence[float], halvings: int = 12) -> list[float]:
    """`sigmas` with the first step split in log σ into fractions 2^−n, 2^−n, 2^−n+1, … ½ of it, n = `halvings`.

    A multistep sampler starts at a lower order. On such a grid the error of its start is negligible, and what remains
    is the error of the full method.

    Raises:
        ValueError: the first step leads to 0.
    """
    top, second = sigmas[0], sigmas[1]
    if not second > 0:
        raise ValueError("the first step leads to 0 and cannot be split in log sigma")
    shares = accumulate([2.0**-halvings, *(2.0 ** (i - halvings) for i in range(halvings))])
    inner = [top * (second / top) ** share for share in shares]
    return [top, *inner[:-1], *sigmas[1:]]


def _span(sigmas: Sequence[float]) -> tuple[float, float]:
    """The first of `sigmas` and the last that is above 0."""
    if len(sigmas) < 2:
        raise ValueError(f"sigmas must hold at least one step, got {list(sigmas)}")
    return sigmas[0], sigmas[-2] if sigmas[-1] == 0 else sigmas[-1]
