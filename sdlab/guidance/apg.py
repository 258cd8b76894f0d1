"""Adaptive projected guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from samplers.checks import one_of, positive, within
from sdlab.guidance.base import COND, UNCOND, Level, Query, State
from sdlab.guidance.scale import check_scale
from sdlab.guidance.space import SPACES, Space, from_space, to_space
from sdlab.guidance.vectors import dot, norm, ratio

Variant = Literal["paper", "diffusers", "comfyui"]


@dataclass(frozen=True)
class AdaptiveProjected:
    """Adaptive projected guidance: the difference of the predictions with momentum, a limited norm, and a projection.

    With c and u the conditional and the unconditional prediction, ′ the previous call, and ∥ the part along c:
        m  = c − u + momentum m′
        m ← m min(1, norm/|m|)
        c + (scale − 1)(m⊥ + eta m∥)

    The momentum is usually negative, and is per call. m has no unit norm: with momentum it is a geometric sum. An
    infinite `norm` limits nothing; it should grow with the square root of the size of x. At momentum 0, infinite norm
    and eta 1 this is classifier-free guidance. Published forms under this name:
        paper      c + (scale − 1)(m⊥ + eta m∥)  in x̂₀
        diffusers  u + scale (m⊥ + eta m∥)       in the raw output, `space` "eps" for Stable Diffusion v1
        comfyui    c + scale (m⊥ + eta m∥)       in x̂₀: scale 0 is the plain model

    (Sadat et al. 2024, arXiv:2410.02416, alg. 1)

    Raises:
        ValueError: `scale` is below 0 or above 1000, `eta` or `momentum` is outside [0, 1] or [−1, 1], `norm` is not
            above 0, or `variant` or `space` is unknown.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0}

    scale: float = 7.5
    eta: float = 0.0
    norm: float = 15.0
    momentum: float = -0.5
    variant: Variant = "paper"
    space: Space = "x0"

    def __post_init__(self) -> None:
        check_scale("AdaptiveProjected.scale", self.scale)
        within("AdaptiveProjected.eta", self.eta, 0, 1)
        within("AdaptiveProjected.momentum", self.momentum, -1, 1)
        if self.norm != inf:
            positive("AdaptiveProjected.norm", self.norm)
        one_of("AdaptiveProjected.variant", self.variant, get_args(Variant))
        one_of("AdaptiveProjected.space", self.space, SPACES)

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """Both predictions, or one at the scale of the plain model."""
        return (COND,) if self.scale == (0 if self.variant == "comfyui" else 1) else (UNCOND, COND)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """The guided x̂₀. State: m, in the space."""
        if len(predictions) == 1:
            return predictions[0], None
        uncond, cond = (to_space(self.space, one, x, sigma) for one in predictions)
        m = cond - uncond
        if state is not None:
            m = m + self.momentum * state[0]
        if self.norm != inf:
            m = m * ratio(m.new_tensor(self.norm), norm(m)).clamp(max=1)
        along = ratio(dot(m, cond), dot(cond, cond)) * cond
        moved = m - (1 - self.eta) * along
        guided = {
            "paper": lambda: cond + (self.scale - 1) * moved,
            "diffusers": lambda: uncond + self.scale * moved,
            "comfyui": lambda: cond + self.scale * moved,
        }[self.variant]()
        return from_space(self.space, guided, x, sigma), (m,)
