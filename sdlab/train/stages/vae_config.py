"""The configuration of the VAE stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from sdlab.system.errors import UsageError
from sdlab.system.limits import LARGEST, TRAINING_STEPS, WIDTH
from sdlab.train.captioned_config import SizedTraining
from sdlab.train.config import TABLE, Need

if TYPE_CHECKING:
    from sdlab.model.config import ModelConfig
    from sdlab.model.vae import Vae
    from sdlab.train.stages.vae import VaeStage


class Perceptual(BaseModel):
    """`[perceptual]`: a loss on the features of a frozen CLIP vision encoder."""

    model_config = TABLE

    weight: float = Field(gt=0, le=LARGEST, description="weight of the perceptual distance")
    weights: Path | None = Field(
        None,
        strict=False,
        description="a CLIP model folder in transformers layout; by default the CLIP of the model folder",
    )


class Adversarial(BaseModel):
    """`[adversarial]`: a patch discriminator, trained in turn with the VAE, and its loss for the VAE."""

    model_config = TABLE

    weight: float = Field(gt=0, le=LARGEST, description="weight of the adversarial loss")
    start: int = Field(0, ge=0, le=TRAINING_STEPS.high, description="first step with the discriminator")
    form: Literal["hinge", "non-saturating"] = Field("hinge", description="form of the losses")
    adaptive: bool = Field(
        True, description="scale the loss so that it pulls on the decoder's last layer as much as the reconstruction"
    )
    r1: float = Field(0.0, ge=0, le=LARGEST, description="weight of the gradient penalty R₁ on real pictures")
    r1_every: int = Field(
        16,
        ge=1,
        le=TRAINING_STEPS.high,
        description="steps between gradient penalties; the weight is multiplied by their number",
    )
    spectral_norm: bool = Field(True, description="keep the spectral norm of the discriminator's layers at 1")
    width: int = Field(32, ge=WIDTH.low, le=WIDTH.high, description="channels of the discriminator's first layer")
    lr: float | None = Field(
        None, gt=0, le=LARGEST, description="the discriminator's learning rate; by default that of the VAE"
    )
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam's β₁ of both networks")
    beta2: float = Field(0.999, gt=0, lt=1, description="Adam's β₂ of both networks")


class VaeTraining(SizedTraining):
    """Trains the VAE to reconstruct pictures."""

    stage: ClassVar[str] = "vae"

    kl: float = Field(2e-4, ge=0, le=LARGEST, description="weight of the KL divergence, averaged over latent values")
    l1: float = Field(1.0, ge=0, le=LARGEST, description="weight of the absolute error")
    l2: float = Field(3.0, ge=0, le=LARGEST, description="weight of the squared error")
    perceptual: Perceptual | None = Field(None, description="the perceptual loss; off by default")
    adversarial: Adversarial | None = Field(None, description="the adversarial loss; off by default")

    @model_validator(mode="after")
    def _no_discriminator_to_shard(self) -> Self:
        if self.shard and self.adversarial is not None:
            raise ValueError("`shard` works for one network, and `adversarial` trains a second; remove one of the two")
        return self

    def check(self, model: ModelConfig) -> None:
        """Check the size of the pictures, and that there is a vision encoder for `perceptual`."""
        super().check(model)
        if self.perceptual is None:
            return
        if self.perceptual.weights is None:
            self.check_vision(model, "`perceptual`")
        else:
            from sdlab.metrics.openai_clip import missing_files

            if lacking := missing_files(self.perceptual.weights):
                raise UsageError(*(f"`perceptual.weights`: {one}" for one in lacking))

    def needs(self) -> tuple[Need, ...]:
        """The vision encoder of the perceptual loss."""
        own = self.perceptual is not None and self.perceptual.weights is None
        return (Need("clip.safetensors", "vision."),) if own else ()

    def network(self, model: ModelConfig) -> Vae:
        """The VAE."""
        from sdlab.model.vae import Vae

        return Vae(model.vae)

    def build(self) -> VaeStage:
        """The stage on trained combinations of a world, measured on all; or on `data`."""
        from sdlab.train.stages.vae import VaeStage

        return VaeStage(self, self.captioned("train"), unseen=self.captioned("all"))
