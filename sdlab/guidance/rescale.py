"""Rescaled classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from samplers.checks import within
from sdlab.guidance.base import Level
from sdlab.guidance.blend import Blend
from sdlab.guidance.space import Space
from sdlab.guidance.vectors import ratio, std


@dataclass(frozen=True)
class Rescaled(Blend):
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

    def blend(self, cond: Tensor, uncond: Tensor, sigma: Level) -> Tensor:
        """The rescaled guided prediction."""
        guided = self.plain(cond, uncond)
        return guided * (1 - self.phi + self.phi * ratio(std(cond), std(guided)))
