"""The registry of training stages: one line per stage.

The registry has the configurations, which import quickly. `build` imports the stage itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from sdlab.train.config import Training
from sdlab.train.stages.clip_config import ClipTraining
from sdlab.train.stages.evaluator_config import EvaluatorTraining
from sdlab.train.stages.text_config import TextTraining
from sdlab.train.stages.unet_config import UnetTraining
from sdlab.train.stages.vae_config import VaeTraining

_CONFIGURATIONS: tuple[type[Training], ...] = (
    TextTraining,
    ClipTraining,
    VaeTraining,
    UnetTraining,
    EvaluatorTraining,
)
STAGES: Mapping[str, type[Training]] = {kind.stage: kind for kind in _CONFIGURATIONS}
