"""The configuration of the text stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from sdlab.train.config import Need, Training

if TYPE_CHECKING:
    from sdlab.model.clip import Clip
    from sdlab.model.config import ModelConfig
    from sdlab.train.stage import Stage


class TextTraining(Training):
    """Trains CLIP's text encoder on the scenes that captions describe."""

    stage: ClassVar[str] = "text"

    teacher: Path | None = Field(
        None,
        strict=False,
        description="text encoder whose states are learnt in place of what the captions describe: a safetensors file "
        "of CLIP, or a model folder; its vision encoder is kept",
    )

    def check(self, model: ModelConfig) -> None:
        """Check that the model has a vision encoder, which is stored beside the text encoder."""
        self.check_vision(model, "the text stage")

    def writes(self) -> str:
        """The weight file of the stage in the model folder."""
        return "clip.safetensors"

    def needs(self) -> tuple[Need, ...]:
        """The teacher's text encoder, if there is one."""
        teacher = self.weights_at(self.teacher)
        return () if teacher is None else (Need(str(teacher.absolute()), "text."),)

    def network(self, model: ModelConfig) -> Clip:
        """Both encoders of CLIP."""
        from sdlab.model.clip import Clip

        assert model.vision is not None  # `check` comes first
        return Clip(model.text, model.vision)

    def build(self) -> Stage:
        """The stage on scenes with trained combinations, or on the states of the teacher."""
        from sdlab.train.stages.text import text_stage

        return text_stage(self)
