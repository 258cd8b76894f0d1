"""All metrics of a sweep on one set of pictures; what sets share (prompts, the reference) is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdlab import scenes
from sdlab.errors import UsageError
from sdlab.metrics.clip import ClipScorer
from sdlab.metrics.distances import Distances
from sdlab.metrics.features import LabFeatures
from sdlab.model.model_loader import StableDiffusion, load_part
from sdlab.resources import find
from sdlab.scenes.reader import Evaluator, accuracy, readings

EVALUATOR = "data/scenes/evaluator.safetensors"
REFERENCE = 2048  # renders that FID and KID compare with
FEWEST = 4  # pictures without which FID and KID, with their standard errors, are not defined
_REFERENCE_SEED = 30_000  # far from the seeds of the prompts and of training
_BATCH = 64


@dataclass
class Measured:
    """What was found in a set of pictures: values, standard errors, and for some metrics a number for each picture."""

    values: dict[str, float] = field(default_factory=dict)
    stderr: dict[str, float] = field(default_factory=dict)
    per_image: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, numbers: Tensor) -> None:
        """A metric that is the mean of one number a picture."""
        self.per_image[name] = numbers
        self.values[name] = float(numbers.mean())
        self.stderr[name] = float(numbers.std()) / len(numbers) ** 0.5 if len(numbers) > 1 else 0.0


def check_prompts(prompts: Sequence[str]) -> list[scenes.Statement]:
    """What the prompts state; UsageError names the first that is no caption of the scenes world."""
    statements = []
    for prompt in prompts:
        statement = scenes.parse(prompt)
        if statement is None:
            raise UsageError(
                f"metrics: prompt_accuracy finds no object of the scenes world in the prompt {prompt!r}; write it like "
                "'a red circle above a small blue star on a grey background', or leave the metric out"
            )
        statements.append(statement)
    return statements


class Meters:
    """The metrics named. The evaluator looks at each picture once, for FID, KID and the reader together."""

    def __init__(self, metrics: Sequence[str], model: StableDiffusion) -> None:
        """Raises UsageError when a metric cannot be measured on this model."""
        self.metrics, self.device = metrics, model.device
        if {"fid", "kid", "prompt_accuracy"} & set(metrics):
            if model.config.image_size != scenes.PIXELS:
                raise UsageError(
                    f"metrics: fid, kid and prompt_accuracy look at {scenes.PIXELS} × {scenes.PIXELS} pictures, "
                    f"{model.config.name!r} makes {model.config.image_size} × {model.config.image_size}"
                )
            self.evaluator = load_part(find(EVALUATOR), Evaluator, model.device)
        if {"fid", "kid"} & set(metrics):
            self.features = LabFeatures(self.evaluator, self._renders())
            self.distances = Distances(self.features.reference)
        if "clip_score" in metrics:
            if model.clip is None:
                raise UsageError(f"metrics: clip_score needs a vision tower, which {model.config.name!r} lacks")
            self.scorer = ClipScorer(model.clip, model.tokenizer)

    @torch.inference_mode()
    def measure(self, images: Tensor, prompts: Sequence[str]) -> Measured:
        """All metrics of N pictures (N, 3, H, W) in [−1, 1] and their prompts.

        Raises:
            UsageError: a prompt is no caption of the scenes world, and prompt accuracy is asked for.
        """
        measured = Measured()
        statements = check_prompts(prompts) if "prompt_accuracy" in self.metrics else []
        if {"fid", "kid", "prompt_accuracy"} & set(self.metrics):
            parts = [self.evaluator(part) for part in images.split(_BATCH)]
        if {"fid", "kid"} & set(self.metrics):
            features = torch.cat([self.features.of(part) for part in parts])
        if "fid" in self.metrics:
            fid = self.distances.fid(features)
            measured.values["fid"], measured.stderr["fid"] = fid.value, fid.stderr
        if "kid" in self.metrics:
            kid = self.distances.kid(features)
            measured.values["kid"], measured.stderr["kid"] = kid.value, kid.stderr
        if "clip_score" in self.metrics:
            scores = [
                self.scorer(part, prompts[i * _BATCH : i * _BATCH + len(part)])
                for i, part in enumerate(images.split(_BATCH))
            ]
            measured.add("clip_score", torch.cat(scores))
        if "prompt_accuracy" in self.metrics:
            found = [reading for part in parts for reading in readings(part)]
            measured.add("prompt_accuracy", accuracy(statements, found))
        return measured

    @torch.inference_mode()
    def real(self, n: int) -> Measured:
        """All metrics of n real renders with their own captions: what a perfect model would score at this n."""
        generator = torch.Generator().manual_seed(_REFERENCE_SEED + 1)
        world = scenes.sample(n, generator)
        captions = scenes.describe(world, generator)
        return self.measure(scenes.render(world).to(self.device), captions)

    def _renders(self) -> Iterator[Tensor]:
        """Batches of the scenes that training draws from, 2048 in all."""
        world = scenes.sample(REFERENCE, torch.Generator().manual_seed(_REFERENCE_SEED), "train")
        for start in range(0, REFERENCE, _BATCH):
            yield scenes.render(world[start : start + _BATCH]).to(self.device)
