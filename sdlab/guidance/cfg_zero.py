"""CFG-Zero*."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from samplers.checks import positive
from sdlab.guidance.base import COND, Level, Query, State
from sdlab.guidance.paired import Paired
from sdlab.guidance.space import Space, from_space, to_direction
from sdlab.guidance.vectors import norm, total


@dataclass(frozen=True)
class ZeroStar(Paired):
    """CFG-Zero*: classifier-free guidance with an optimised scale of the unconditional velocity, and zero at the start.

    With c and u the conditional and the unconditional velocity of flow matching, per image:
        s = ⟨c, u⟩/|u|²
        s u + scale (c − s u)

    Above the level `zero_above` the velocity is 0, x̂₀ = x/(1 + σ). The flow then keeps x/(1 + σ) and only lowers the
    noise level. The authors do this for the first 4 % of steps. (Fan et al. 2025, arXiv:2503.18886, alg. 1)

    Raises:
        ValueError: `scale` is below 0 or above 1000, `zero_above` is not above 0, or `space` is unknown.
    """

    scale: float = 7.5
    zero_above: float = inf
    space: Space = "flow"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zero_above != inf:
            positive("ZeroStar.zero_above", self.zero_above)

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """One prediction at scale 1 and where the velocity is 0, otherwise both."""
        return (COND,) if sigma > self.zero_above else super().queries(sigma)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """The guided x̂₀."""
        if sigma > self.zero_above:
            return from_space(self.space, torch.zeros_like(x), x, sigma), state
        if len(predictions) == 1:
            return predictions[0], state
        uncond, cond = predictions
        # s u is the velocity on the line of u that is nearest to c. The same line in x̂₀ needs no conversion back.
        line = to_direction(self.space, uncond, x, sigma)
        square = norm(line).square_().clamp_(min=torch.finfo(line.dtype).tiny)
        along = total((cond - uncond).mul_(line)).div_(square)
        return torch.addcmul(uncond, line, along).lerp_(cond, self.scale), state
