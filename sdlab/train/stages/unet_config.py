"""The configuration of the U-Net stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from sdlab.system.limits import TRAINING_PICTURES
from sdlab.train.config import Training

if TYPE_CHECKING:
    from sdlab.train.stages.unet import UnetStage


class UnetTraining(Training):
    """Trains the U-Net to denoise latents, conditioned on captions. The VAE and the text encoder are frozen."""

    stage: ClassVar[str] = "unet"

    cache: int | None = Field(
        None,
        ge=TRAINING_PICTURES.low,
        le=TRAINING_PICTURES.high,
        description="number of pictures, encoded once before training; by default every step encodes fresh pictures",
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

    @field_validator("compile")
    @classmethod
    def _not_compiled(cls, value: bool) -> bool:
        # Seen with PyTorch 2.13 on a CPU: after 1,200 steps every transformer's last projection was still zero.
        if value:
            raise ValueError("`compile` keeps the U-Net's transformers from learning; remove it from the unet stage")
        return value

    def build(self) -> UnetStage:
        """The stage on scenes with trained combinations; measured on those and on held-out combinations."""
        from sdlab.train.stages.unet import UnetStage

        unseen = {"train": self.pictures("train"), "heldout": self.pictures("heldout")}
        return UnetStage(self, self.pictures("train"), unseen)
