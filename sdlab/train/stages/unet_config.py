"""The configuration of the U-Net stage."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from sdlab.system.errors import UsageError
from sdlab.system.limits import LARGEST, TRAINING_PICTURES, WIDTH
from sdlab.train.captioned_config import SizedTraining
from sdlab.train.config import TABLE, Need
from sdlab.train.losses.weighting import AnyWeighting

if TYPE_CHECKING:
    from sdlab.model.config import ModelConfig
    from sdlab.model.diffusion import Unet
    from sdlab.train.stages.unet import UnetStage


class Timesteps(BaseModel):
    """`[timesteps]`: timesteps for which ln σ is normal; in a flow their t is logit-normal."""

    model_config = TABLE

    mean: float = Field(0.0, ge=-20, le=20, description="mean of ln σ")
    std: float = Field(1.0, gt=0, le=20, description="standard deviation of ln σ")
    shift: float = Field(1.0, gt=0, le=LARGEST, description="factor on σ, above 1 for larger pictures")


class Alignment(BaseModel):
    """`[alignment]`: the U-Net's middle features are aligned with frozen features of the clean picture.

    The features are never those of the reader (`evaluator.safetensors`), because the reader judges the model. A network
    that has learnt to imitate its judge would be measured too well.
    """

    model_config = TABLE

    weight: float = Field(0.5, gt=0, le=LARGEST, description="weight of the alignment loss")
    features: Literal["clip", "vae", "latents"] = Field(
        "clip",
        description="patches of CLIP's vision encoder (after the clip stage), middle features of the VAE's encoder, "
        "or the clean latents",
    )
    hidden: int = Field(256, ge=WIDTH.low, le=WIDTH.high, description="width of the projector")


class TextAlignment(BaseModel):
    """`[text_alignment]`: the picture of x̂₀ is aligned with its caption, by the CLIP of the model folder."""

    model_config = TABLE

    weight: float = Field(gt=0, le=LARGEST, description="weight of 1 − cosine of the two embeddings")
    below: float = Field(
        1.0, gt=0, le=LARGEST, description="σ below which it applies; above, x̂₀ is a blurred mean of many pictures"
    )


class UnetTraining(SizedTraining):
    """Trains the U-Net to denoise latents, conditioned on captions. The VAE and the text encoder are frozen."""

    stage: ClassVar[str] = "unet"

    cache: int | None = Field(
        None,
        ge=TRAINING_PICTURES.low,
        le=TRAINING_PICTURES.high,
        description="number of pictures (of `data` at most all), encoded once before training; by default every step "
        "encodes new ones",
    )
    drop_caption: float = Field(
        0.1, ge=0, le=1, description="share of captions replaced by the empty caption, for classifier-free guidance"
    )
    focus: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="position in the noise schedule (0 is clean, 1 is noise) around which most timesteps are drawn; "
        "uniform by default",
    )
    timesteps: Timesteps | None = Field(
        None, description="log-normal noise levels; by default the timesteps are uniform or as `focus` says"
    )
    prediction: Literal["eps", "v", "x0", "flow", "edm"] | None = Field(
        None, description="what the network predicts, stored in config.json; by default what config.json says"
    )
    noise_schedule: Literal["scaled_linear", "zero_snr", "flow", "edm"] | None = Field(
        None, description="noise schedule, stored in config.json; by default that of config.json"
    )
    weighting: AnyWeighting | None = Field(
        None,
        discriminator="name",
        description="weighting of the loss by noise level; by default the plain error of the prediction",
    )

    alignment: Alignment | None = Field(
        None, description="alignment of the middle features with those of the clean picture; off by default"
    )
    text_alignment: TextAlignment | None = Field(
        None, description="alignment of predicted pictures with their captions; off by default"
    )

    @model_validator(mode="after")
    def _one_distribution(self) -> UnetTraining:
        if self.focus is not None and self.timesteps is not None:
            raise ValueError("`focus` and `timesteps` both choose the distribution of timesteps; remove one of them")
        return self

    def check(self, model: ModelConfig) -> None:
        """Check the prediction, the size of the pictures, and that there is a vision encoder to align with."""
        super().check(model)
        self.changed(model)
        if self.alignment is not None and self.alignment.features == "clip":
            self.check_vision(model, "`alignment`")
        if self.text_alignment is not None:
            self.check_vision(model, "`text_alignment`")

    def changed(self, model: ModelConfig) -> ModelConfig:
        """The model with the prediction and the noise schedule that this configuration names.

        Raises:
            UsageError: they do not work together.
        """
        from sdlab.model.noise_schedule import NAMED

        levels = model.levels if self.noise_schedule is None else NAMED[self.noise_schedule]
        try:
            return replace(model, prediction=self.prediction or model.prediction, levels=levels)
        except ValueError as error:
            raise UsageError(f"`prediction` and `noise_schedule`: {error}") from None

    def needs(self) -> tuple[Need, ...]:
        """The text encoder and the VAE. Alignment with CLIP needs its vision encoder too."""
        whole = self.text_alignment is not None or (self.alignment is not None and self.alignment.features == "clip")
        return Need("clip.safetensors", "" if whole else "text."), Need("vae.safetensors")

    def for_measuring(self) -> UnetTraining:
        """Without the cache of latents, which is slow to make."""
        return self.model_copy(update={"cache": None})

    def multiple(self, model: ModelConfig) -> int:
        """The number of pixels of which the side must be a multiple."""
        return model.multiple

    def network(self, model: ModelConfig) -> Unet:
        """The U-Net."""
        from sdlab.model.diffusion import Unet

        return Unet(model.unet)

    def build(self) -> UnetStage:
        """The stage on trained combinations of a world, measured on those and on held-out ones; or on `data`."""
        from sdlab.train.stages.unet import UnetStage

        unseen = {"train": self.captioned("train"), "heldout": self.captioned("heldout")}
        config = self
        if self.data is not None and self.cache is not None:
            config = self.model_copy(update={"cache": min(self.cache, len(self.own_pictures(self.data, "train")))})
        return UnetStage(config, self.captioned("train"), unseen)
