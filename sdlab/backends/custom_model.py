"""What a model of one's own is: a denoiser, its noise levels, and the shape of what it makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import samplers
from samplers.exact.problems import Gaussian


@dataclass(frozen=True, eq=False)
class CustomModel:
    """What a function to a model returns; in place of one with nothing but the first three, their tuple will do.

    In the σ clock x = x₀ + σ ε. x comes in float32, on the device of the sweep, to which a network must see itself.

        denoise   (x, sigma) -> x̂₀ in the shape (B, …) of x; with `contexts`, (x, sigma, context). `sigma` is a float,
                  or a tensor (B,) for the few rules that give each image a level of its own
        levels    `samplers.discrete_levels()`, `samplers.continuous_levels(0.002, 80)`, …
        shape     of one sample, (D,) or (C, H, W)
        contexts  conditions that guidance takes: (C, …), of which image i has row i mod C, and (1, …) for none
        flow      (x, sigma, sigma_next) -> where the exact probability flow carries x, down to 0; without contexts
        law       of the data, where it is this Gaussian, in the shape of a sample
        decode    samples (B, …) -> pictures (B, 3, H, W) in [−1, 1]
        files     what else the numbers depend on: weights, say
    """

    denoise: Callable[..., Tensor]
    levels: samplers.Levels
    shape: tuple[int, ...]
    contexts: tuple[Tensor, Tensor] | None = None
    flow: Callable[[Tensor, float, float], Tensor] | None = None
    law: Gaussian | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    files: tuple[Path, ...] = ()
