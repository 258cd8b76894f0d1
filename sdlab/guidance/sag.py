"""Self-attention guidance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.checks import within
from sdlab.guidance.base import COND, UNCOND, Found, Input, Level, Query
from sdlab.guidance.blur import blurred
from sdlab.guidance.contrast import Contrast


@dataclass(frozen=True)
class BlurredWhereAttended(Input):
    """x with its clean part blurred where the network attends, and with the same noise.

    x′ = x + mask (G x̂₀ − x̂₀), with G a Gaussian blur of standard deviation `blur` latents. The mask is 1 at positions
    that receive more than `threshold` of self-attention, where 1 is the average.
    """

    blur: float = 1.0
    threshold: float = 1.0

    def at(self, found: Found, x: Tensor, sigma: Level) -> Tensor:
        """x′."""
        assert found.attention is not None  # it has layers
        mask = found.attention[:, None] > self.threshold
        return x + torch.where(mask, blurred(found.x0, self.blur) - found.x0, 0)


@dataclass(frozen=True)
class SelfAttention(Contrast):
    """Self-attention guidance: away from the prediction for a picture that is blurred where the network attends to it.

    With D the conditional prediction, or the unconditional one if there is classifier-free guidance:
        D(∅) + cfg (D(c) − D(∅)) + scale (D − D′)

    D′ has the noise that the same network predicts for x′. There x̂₀ is blurred by a Gaussian whose standard deviation
    is `blur` latents, at the positions that receive more than `threshold` of the self-attention in the transformers
    `layers`, 1 on average. It is then brought back to level σ with the noise that was predicted for x. So D′ needs D
    first, and an image takes two rounds of passes per call. Scale 0 has no effect.
    (Hong et al. 2022, arXiv:2210.00939, eq. 15 and 24)

    Raises:
        ValueError: `scale`, `cfg`, `blur` or `threshold` is below 0, or `layers` is empty.
    """

    scale: float = 0.75
    blur: float = 1.0
    threshold: float = 1.0
    layers: tuple[str, ...] = ("auto",)

    def __post_init__(self) -> None:
        within("SelfAttention.blur", self.blur, 0)
        within("SelfAttention.threshold", self.threshold, 0)
        if not self.layers:
            raise ValueError('SelfAttention.layers must name at least one transformer, or "auto"')
        super().__post_init__()

    def better(self, sigma: float) -> Query:
        """The prediction for x itself."""
        return COND if self.cfg == 1 else UNCOND

    def worse(self, sigma: float) -> Query:
        """The prediction for the blurred picture, with the same context."""
        better = self.better(sigma)
        return Query(better.context, input=BlurredWhereAttended(better, self.layers, self.blur, self.threshold))
