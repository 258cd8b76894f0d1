"""The evaluator stage: the network of a reader, trained on rendered pictures of a world with all combinations.

The pictures are disturbed, so that the network also works on generated pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdlab.model.vae import Vae
from sdlab.train.optimizer import standard
from sdlab.train.randomness import measuring_generator
from sdlab.train.stage import Loss, Stage
from sdlab.train.stages.disturbances import MEASURED, haze, weather
from sdlab.train.stages.evaluator_config import EvaluatorTraining
from sdlab.train.world_pictures import WorldPictures
from sdlab.weights.model_folder import load_part, read_config, save_part
from sdlab.worlds.evaluator import Evaluator
from sdlab.worlds.second_evaluator import SecondEvaluator

_BATCHES, _BATCH = 8, 256  # of the pictures that the trained network is measured on


@dataclass(frozen=True)
class _Draw:
    """Disturbed pictures (B, 3, H, W), and what they show."""

    source: WorldPictures[Any]
    n: int
    disturb: Callable[[Tensor, torch.Generator], Tensor]

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, Any]:
        batch = self.source.batch(self.n, generator)
        return self.disturb(batch.images(), generator), batch.truth


class EvaluatorStage(Stage):
    """The stage that maps pictures to what they show."""

    def __init__(self, config: EvaluatorTraining, pictures: WorldPictures[Any]) -> None:
        self.config, self.pictures, self.world = config, pictures, pictures.world
        torch.manual_seed(config.seed)
        self.evaluator = (SecondEvaluator if config.second else Evaluator)(self.world.HEADS)
        self.draw = _Draw(pictures, config.batch, haze if config.second else weather)
        self.trained = {"evaluator": standard(self.evaluator, config)}

    def losses(self, step: int, batch: tuple[Tensor, Any]) -> Iterator[Loss]:
        """The losses of the world's heads, equally weighted."""
        images, truth = batch
        outputs = self.evaluator(images.to(self.config.device))
        losses = self.world.losses({name: value.float().cpu() for name, value in outputs.items()}, truth)
        yield Loss("evaluator", torch.stack(list(losses.values())).sum(), losses)

    def finish(self) -> dict[str, float]:
        """Measure the accuracy on unseen renders with all facts stated, and write the weights.

        The renders are clean, blurred, noisy, compressed, and decoded from their latents if the folder has a VAE. The
        last accuracy says how much of the judge's error the VAE can cause.

        Raises:
            RunError: the weights cannot be written.
        """
        measured: dict[str, float] = {}
        kinds: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {**MEASURED, **self._reconstructed()}
        for name, disturb in kinds.items():
            facts, whole = self._accuracy(disturb)
            suffix = "" if name == "clean" else f"_{name}"
            measured |= {f"attribute_accuracy{suffix}": facts, f"wholly_right{suffix}": whole}
        save_part(Path(self.config.model) / self.config.writes(), self.evaluator, torch.bfloat16)
        return measured

    def _reconstructed(self) -> dict[str, Callable[[Tensor, torch.Generator], Tensor]]:
        """The VAE's reconstructions as a disturbance, if the model folder has a VAE."""
        path = Path(self.config.model) / "vae.safetensors"
        if not path.is_file():
            return {}
        vae = load_part(path, partial(Vae, read_config(Path(self.config.model)).vae), self.config.device)

        def reconstruct(images: Tensor, generator: torch.Generator) -> Tensor:
            return vae.decode(vae.encode(images.to(self.config.device)).mean).clamp(-1, 1).cpu()

        return {"reconstructed": reconstruct}

    def _accuracy(self, disturb: Callable[[Tensor, torch.Generator], Tensor]) -> tuple[float, float]:
        """The share of facts that are read right, and of pictures of which all are."""
        generator = measuring_generator(self.config.seed)
        right: list[bool] = []
        whole: list[bool] = []
        for _ in range(_BATCHES):
            batch = self.pictures.batch(_BATCH, generator)
            statements = self.world.state(batch.truth, generator, complete=True)
            images = disturb(batch.images(), generator)
            readings = self.world.readings(self.evaluator(images.to(self.config.device)))
            for statement, reading in zip(statements, readings, strict=True):
                facts = self.world.check(statement, reading)
                right += facts
                whole.append(all(facts))
        return sum(right) / len(right), sum(whole) / len(whole)
