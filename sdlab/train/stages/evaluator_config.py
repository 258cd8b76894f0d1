"""The configuration of the evaluator stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from sdlab.train.config import Training

if TYPE_CHECKING:
    from torch import nn

    from sdlab.model.config import ModelConfig
    from sdlab.train.stages.evaluator import EvaluatorStage


class EvaluatorTraining(Training):
    """Trains the evaluator, which checks generated pictures and provides the features of FID and KID."""

    stage: ClassVar[str] = "evaluator"

    second: bool = Field(
        False,
        description="train the second evaluator, which has another architecture; the two disagree where the judge errs",
    )

    def writes(self) -> str:
        """The weight file of the stage in the model folder."""
        return "second_evaluator.safetensors" if self.second else "evaluator.safetensors"

    def network(self, model: ModelConfig) -> nn.Module:
        """The reader's network."""
        from sdlab.worlds.evaluator import Evaluator
        from sdlab.worlds.registry import open_world
        from sdlab.worlds.second_evaluator import SecondEvaluator

        return (SecondEvaluator if self.second else Evaluator)(open_world(self.world).HEADS)

    def build(self) -> EvaluatorStage:
        """The stage on scenes with all combinations, held-out ones included."""
        from sdlab.train.stages.evaluator import EvaluatorStage

        return EvaluatorStage(self, self.pictures("all"))
