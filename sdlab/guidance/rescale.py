"""Rescaled classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.checks import within
from sdlab.guidance.base import Level, State
from sdlab.guidance.paired import Paired
from sdlab.guidance.space import Space, to_direction
from sdlab.guidance.vectors import deviation, ratio


@dataclass(frozen=True)
class Rescaled(Paired):
    """Classifier-free guidance whose standard deviation is pulled back to that of the conditional prediction.

    With g the guided and c the conditional prediction, and std over all values of an image:
        φ g std(c)/std(g) + (1 − φ) g

    The paper's model predicts v, hence the space. Diffusers takes the raw output of the network, which is `space`
    "eps" for Stable Diffusion v1. ComfyUI always takes v. The pictures differ. (Lin et al. 2023, arXiv:2305.08891,
    sec. 3.4)

    Raises:
        ValueError: `scale` is below 0 or above 1000, `phi` is outside [0, 1], or `space` is unknown.
    """

    scale: float = 7.5
    phi: float = 0.7
    space: Space = "v"

    def __post_init__(self) -> None:
        super().__post_init__()
        within("Rescaled.phi", self.phi, 0, 1)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """The guided x̂₀, moved to where its prediction in the space is rescaled."""
        if len(predictions) == 1:
            return predictions[0], state
        uncond, cond = predictions
        guided = self.plain(cond, uncond)
        c, g = (to_direction(self.space, one, x, sigma) for one in (cond, guided))
        stretch = ratio(deviation(c), deviation(g)).sub_(1).mul_(self.phi)
        return torch.addcmul(guided, stretch, g), state
