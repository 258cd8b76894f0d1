"""The configuration of the VAE stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from sdlab.train.config import Training

if TYPE_CHECKING:
    from sdlab.train.stages.vae import VaeStage


class VaeTraining(Training):
    """Trains the VAE to reconstruct pictures."""

    stage: ClassVar[str] = "vae"

    kl: float = Field(2e-4, ge=0, description="weight of the KL divergence, averaged over latent values")

    def build(self) -> VaeStage:
        """The stage on scenes with trained combinations; measured on scenes with all combinations."""
        from sdlab.train.scene_pictures import ScenePictures
        from sdlab.train.stages.vae import VaeStage

        return VaeStage(self, ScenePictures("train"), unseen=ScenePictures("all"))
