"""Autoguidance."""

from __future__ import annotations

from dataclasses import dataclass

from sdlab.guidance.affine import Affine
from sdlab.guidance.base import COND, Query
from sdlab.guidance.scale import check_scale


@dataclass(frozen=True)
class Autoguidance(Affine):
    """Autoguidance: away from a less trained network with the same prompt, D′(c) + scale (D(c) − D′(c)).

    D′ is the U-Net `network` of the model folder, whose file is unet_NETWORK.safetensors. It has the configuration of
    the U-Net, so its passes cost the same. Scale 1 is the plain conditional model. (Karras et al. 2024,
    arXiv:2406.02507, sec. 4)

    Raises:
        ValueError: `scale` is below 0 or above 1000, or `network` is empty.
    """

    scale: float = 2.0
    network: str = "early"

    def __post_init__(self) -> None:
        check_scale("Autoguidance.scale", self.scale)
        if not self.network:
            raise ValueError("Autoguidance.network must be the name of a network, like 'early'")

    def pair(self) -> tuple[Query, Query]:
        """The conditional predictions of both networks."""
        return Query("cond", network=self.network), COND

    def weight(self, sigma: float) -> float:
        """The scale at every level."""
        return self.scale
