"""The configuration of the text stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sdlab.train.config import Training

if TYPE_CHECKING:
    from sdlab.train.stages.text import TextStage


class TextTraining(Training):
    """Trains CLIP's text encoder on the scenes that captions describe."""

    stage: ClassVar[str] = "text"
    writes: ClassVar[str] = "clip.safetensors"

    def build(self) -> TextStage:
        """The stage on scenes with trained combinations."""
        from sdlab.train.stages.text import TextStage

        return TextStage(self, self.pictures("train"))
