"""The configuration of the CLIP stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from sdlab.system.limits import LARGEST
from sdlab.train.config import Training

if TYPE_CHECKING:
    from sdlab.train.stages.clip import ClipStage


class ClipTraining(Training):
    """Trains CLIP's vision encoder against its frozen text encoder."""

    stage: ClassVar[str] = "clip"

    grounding: float = Field(5.0, ge=0, le=LARGEST, description="weight of the loss on which objects are in which half")

    def build(self) -> ClipStage:
        """The stage on scenes with trained combinations."""
        from sdlab.train.stages.clip import ClipStage

        return ClipStage(self, self.pictures("train"))
