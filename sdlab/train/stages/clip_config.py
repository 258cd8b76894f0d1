"""The configuration of the CLIP stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from sdlab.system.limits import LARGEST
from sdlab.train.captioned_config import CaptionedTraining
from sdlab.train.config import Need

if TYPE_CHECKING:
    from sdlab.model.clip import Clip
    from sdlab.model.config import ModelConfig
    from sdlab.train.stage import Stage


class ClipTraining(CaptionedTraining):
    """Trains CLIP's vision encoder against its frozen text encoder, or both together on `data`."""

    stage: ClassVar[str] = "clip"

    grounding: float = Field(5.0, ge=0, le=LARGEST, description="weight of the loss on what a world's pictures show")

    def check(self, model: ModelConfig) -> None:
        """Check that the model has a vision encoder, and the size of its pictures."""
        self.check_vision(model, "the clip stage")
        super().check(model)

    def needs(self) -> tuple[Need, ...]:
        """The text encoder, which is trained on a world beforehand."""
        return (Need("clip.safetensors", "text."),) if self.data is None else ()

    def network(self, model: ModelConfig) -> Clip:
        """Both encoders of CLIP."""
        from sdlab.model.clip import Clip

        assert model.vision is not None  # `check` comes first
        return Clip(model.text, model.vision)

    def build(self) -> Stage:
        """The stage on trained combinations of a world, or on `data`."""
        from sdlab.train.stages.clip import clip_stage

        return clip_stage(self)
