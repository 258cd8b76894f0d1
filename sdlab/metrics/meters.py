"""All metrics of a sweep on one set of pictures; what sets share (prompts, the reference) is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sdlab.metrics import openai_clip, reference, resemblance
from sdlab.metrics.changes import changes_made
from sdlab.metrics.clip import ClipScorer
from sdlab.metrics.distances import Distances
from sdlab.metrics.features import InceptionFeatures, LabFeatures
from sdlab.metrics.files import MetricFiles
from sdlab.metrics.needs import EVALUATOR, FEWEST, by_evaluator, complaints, missing_files
from sdlab.model.stable_diffusion import StableDiffusion
from sdlab.system.errors import UsageError
from sdlab.system.resources import find
from sdlab.weights.model_folder import load_part
from sdlab.worlds import scenes
from sdlab.worlds.scenes.reader import Evaluator, accuracy, readings

REFERENCE = 2048  # renders that FID and KID compare with
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

    def __init__(self, metrics: Sequence[str], model: StableDiffusion, files: MetricFiles | None = None) -> None:
        """Raises UsageError when a metric cannot be measured on this model, or its files are missing or wrong."""
        files = files or MetricFiles()
        self.metrics, self.device = metrics, model.device
        wrong = complaints(metrics, model.config, files, FEWEST, True) + missing_files(metrics, files)
        if wrong:
            raise UsageError("\n".join(wrong))
        self.size = model.config.image_size, model.config.image_size
        self.lab = by_evaluator(metrics, files)
        if self.lab:
            self.evaluator = load_part(find(EVALUATOR), Evaluator, model.device)
        if {"fid", "kid"} & set(metrics):
            self.features: LabFeatures | InceptionFeatures
            self.features, self.distances = self._inception(files) if files.inception else self._lab()
        if "clip_score" in metrics and files.clip is not None:
            self.scorer = ClipScorer(*openai_clip.load(Path(files.clip), model.device))
        elif "clip_score" in metrics:
            assert model.clip is not None
            self.scorer = ClipScorer(model.clip, model.tokenizer)

    def _lab(self) -> tuple[LabFeatures, Distances]:
        features = LabFeatures(self.evaluator, self._renders())
        return features, Distances(features.reference)

    def _inception(self, files: MetricFiles) -> tuple[InceptionFeatures, Distances]:
        assert files.inception is not None
        assert files.reference is not None
        features, place = InceptionFeatures(Path(files.inception), self.device), Path(files.reference)
        if place.is_file():
            return features, Distances(reference.read_statistics(place, features.num_features))
        real = [features(batch.to(self.device)) for batch in reference.batches(place, self.size)]
        return features, Distances(torch.cat(real))

    @torch.inference_mode()
    def measure(self, images: Tensor, prompts: Sequence[str], inputs: Tensor | None = None) -> Measured:
        """All metrics of N pictures (N, 3, H, W) in [−1, 1], their prompts, and what image-to-image made them from.

        Without `inputs` (N, 3, H, W) there is no resemblance to measure.

        Raises:
            UsageError: a prompt is no caption of the scenes world, and prompt accuracy is asked for.
        """
        measured = Measured()
        statements = check_prompts(prompts) if {"prompt_accuracy", "changes_made"} & set(self.metrics) else []
        if {"fid", "kid", "prompt_accuracy", "changes_made"} & set(self.lab):
            parts = [self.evaluator(part) for part in images.split(_BATCH)]
        if {"fid", "kid"} & set(self.metrics):
            if isinstance(self.features, LabFeatures):
                features = torch.cat([self.features.of(part) for part in parts])
            else:
                features = torch.cat([self.features(part) for part in images.split(_BATCH)])
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
        if statements:
            found = [reading for part in parts for reading in readings(part)]
        if "prompt_accuracy" in self.metrics:
            measured.add("prompt_accuracy", accuracy(statements, found))
        if "changes_made" in self.metrics and inputs is not None:
            before = [reading for part in inputs.split(_BATCH) for reading in readings(self.evaluator(part))]
            measured.add("changes_made", changes_made(statements, before, found))
        if inputs is not None:
            pairs = list(zip(images.split(_BATCH), inputs.split(_BATCH), strict=True))
            for name, measure in self._resemblances().items():
                measured.add(name, torch.cat([measure(a, b).cpu() for a, b in pairs]))
        return measured

    def _resemblances(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        known: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "psnr": resemblance.psnr,
            "ssim": resemblance.ssim,
            "feature_distance": lambda images, inputs: resemblance.feature_distance(self.evaluator, images, inputs),
        }
        return {name: measure for name, measure in known.items() if name in self.metrics}

    @torch.inference_mode()
    def real(self, n: int) -> Measured:
        """All metrics of n real renders with their own captions: what a perfect model would score at this n.

        Nothing for a model that makes other pictures than these.
        """
        if self.size != (scenes.PIXELS, scenes.PIXELS):
            return Measured()
        generator = torch.Generator().manual_seed(_REFERENCE_SEED + 1)
        world = scenes.sample(n, generator)
        captions = scenes.describe(world, generator)
        return self.measure(scenes.render(world).to(self.device), captions)

    def _renders(self) -> Iterator[Tensor]:
        """Batches of the scenes that training draws from, 2048 in all."""
        world = scenes.sample(REFERENCE, torch.Generator().manual_seed(_REFERENCE_SEED), "train")
        for start in range(0, REFERENCE, _BATCH):
            yield scenes.render(world[start : start + _BATCH]).to(self.device)
