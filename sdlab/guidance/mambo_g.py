"""MAMBO-G: guidance damped where the predictions differ much."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.checks import within
from sdlab.guidance.base import Level
from sdlab.guidance.blend import Blend
from sdlab.guidance.space import Space
from sdlab.guidance.vectors import norm, ratio


@dataclass(frozen=True)
class MagnitudeAware(Blend):
    """MAMBO-G: classifier-free guidance whose weight falls with the relative size of the difference, per image.

    With c and u the velocities of flow matching:
        r = |c − u|/|u|
        u + (1 + (scale − 1) e^{−alpha r})(c − u)

    The ratio depends on the space. (Zhu et al. 2025, arXiv:2508.03442)

    Raises:
        ValueError: `scale` is below 0 or above 1000, `alpha` is below 0, or `space` is unknown.
    """

    scale: float = 10.0
    alpha: float = 8.0
    space: Space = "flow"

    def __post_init__(self) -> None:
        super().__post_init__()
        within("MagnitudeAware.alpha", self.alpha, 0)

    def blend(self, cond: Tensor, uncond: Tensor, sigma: Level) -> Tensor:
        """The guided velocity."""
        change = cond - uncond
        damping = torch.exp(-self.alpha * ratio(norm(change), norm(uncond)))
        return cond + (self.scale - 1) * damping * change
