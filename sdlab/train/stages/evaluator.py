"""The evaluator stage: the reader's network, trained on rendered pictures of a world with all combinations.

The pictures are slightly blurred and noised, so that the network also works on generated pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.train.optimizer import standard
from sdlab.train.randomness import measuring_generator
from sdlab.train.stage import Loss
from sdlab.train.stages.evaluator_config import EvaluatorTraining
from sdlab.train.world_pictures import WorldPictures
from sdlab.weights.model_folder import save_part
from sdlab.worlds.evaluator import Evaluator


class EvaluatorStage:
    """The stage that maps pictures to what they show."""

    def __init__(self, config: EvaluatorTraining, pictures: WorldPictures[Any]) -> None:
        self.config, self.pictures, self.world = config, pictures, pictures.world
        torch.manual_seed(config.seed)
        self.evaluator = Evaluator(self.world.HEADS)
        self.trained = {"evaluator": standard(self.evaluator, config)}

    def losses(self, step: int, generator: torch.Generator) -> Iterator[Loss]:
        """The losses of the world's heads, equally weighted."""
        batch = self.pictures.batch(self.config.batch, generator)
        images = weather(batch.images(), generator)
        outputs = self.evaluator(images.to(self.config.device))
        losses = self.world.losses({name: value.float().cpu() for name, value in outputs.items()}, batch.truth)
        yield Loss("evaluator", torch.stack(list(losses.values())).sum(), losses)

    def finish(self) -> dict[str, float]:
        """Measure the attribute accuracy on unseen clean renders with all facts stated. Write the weights.

        Raises:
            RunError: the weights cannot be written.
        """
        generator = measuring_generator(self.config.seed)
        right: list[bool] = []
        whole: list[bool] = []
        for _ in range(16):
            batch = self.pictures.batch(256, generator)
            statements = self.world.state(batch.truth, generator, complete=True)
            readings = self.world.readings(self.evaluator(batch.images().to(self.config.device)))
            for statement, reading in zip(statements, readings, strict=True):
                facts = self.world.check(statement, reading)
                right += facts
                whole.append(all(facts))
        save_part(Path(self.config.model) / "evaluator.safetensors", self.evaluator, torch.bfloat16)
        return {"attribute_accuracy": sum(right) / len(right), "wholly_right": sum(whole) / len(whole)}


def weather(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur half of the pictures and add noise of random strength to all: (B, 3, H, W) -> (B, 3, H, W)."""
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mix = (torch.rand(len(images), 1, 1, 1, generator=generator) * 2 - 1).clamp(min=0)
    strength = 0.1 * torch.rand(len(images), 1, 1, 1, generator=generator).square()
    return torch.lerp(images, blurred, mix) + strength * torch.randn(images.shape, generator=generator)
