"""Custom models: a denoiser, its noise schedule, and the shape of a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import samplers
from samplers.exact.families import ClassMixture
from samplers.exact.problems import Gaussian


@dataclass(frozen=True, eq=False)
class CustomModel:
    """What the function of a custom model returns. If the first three fields are enough, it may return a tuple of them.

    In the σ clock x = x₀ + σ ε. x is float32 on the device of the sweep. The denoiser must move its network there.

        denoise   (x, sigma) -> x̂₀ in the shape (B, …) of x; with `contexts`, (x, sigma, context). `sigma` is a float,
                  or a tensor (B,) for the few samplers that give each image its own level
        levels    `samplers.discrete_levels()`, `samplers.continuous_levels(0.002, 80)`, …
        shape     of one sample, (D,) or (C, H, W)
        contexts  conditions for guidance: (C, …), where image i has row i mod C, and (1, …) for no condition
        flow      (x, sigma, sigma_next) -> the state that the exact probability flow reaches, also at 0; no contexts
        law       the law of the data if it is Gaussian, in the shape of a sample
        classes   the law of the data of each class, if known; image i is of class i mod C
        decode    samples (B, …) -> pictures (B, 3, H, W) in [−1, 1]
        files     other files that the values depend on, such as weights

    If a context has both a text and a picture, `without_text` turns contexts (B, …) into those of the picture alone,
    for dual guidance.
    """

    denoise: Callable[..., Tensor]
    levels: samplers.Levels
    shape: tuple[int, ...]
    contexts: tuple[Tensor, Tensor] | None = None
    flow: Callable[[Tensor, float, float], Tensor] | None = None
    law: Gaussian | None = None
    classes: ClassMixture | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    files: tuple[Path, ...] = ()
    without_text: Callable[[Tensor], Tensor] | None = None
