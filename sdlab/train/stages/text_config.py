"""The configuration of the text stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sdlab.train.config import Training

if TYPE_CHECKING:
    from sdlab.model.config import ModelConfig
    from sdlab.train.stages.text import TextStage


class TextTraining(Training):
    """Trains CLIP's text encoder on the scenes that captions describe."""

    stage: ClassVar[str] = "text"

    def check(self, model: ModelConfig) -> None:
        """Check that the model has a vision encoder, which is stored beside the text encoder."""
        self.check_vision(model, "the text stage")

    def writes(self) -> str:
        """The weight file of the stage in the model folder."""
        return "clip.safetensors"

    def build(self) -> TextStage:
        """The stage on scenes with trained combinations."""
        from sdlab.train.stages.text import TextStage

        return TextStage(self, self.pictures("train"))
