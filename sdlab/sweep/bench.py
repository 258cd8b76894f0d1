"""The bench: a loaded model and all that measures it. What cells share is computed once, when it is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

import samplers
from sdlab import guidance
from sdlab.errors import UsageError
from sdlab.metrics.meters import EVALUATOR, FEWEST, Meters, check_prompts
from sdlab.model.model_loader import load, model_files
from sdlab.pipeline import Pipeline, to_bytes
from sdlab.resources import find
from sdlab.sweep.cell import Cell
from sdlab.sweep.plan import Plan
from sdlab.sweep.results import CellFailed, CellResult

_THUMBNAILS = 8  # pictures of a cell that the contact sheet shows


def identify(plan: Plan) -> str:
    """The model of a plan down to its weights: a digest of its files, the evaluator's among them.

    Raises:
        UsageError: there is no such model, or a file is missing.
    """
    content = hashlib.sha256()
    for path in (*model_files(plan.model), find(EVALUATOR)):
        with path.open("rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
    return f"{Path(plan.model).name} {content.hexdigest()[:16]}"


class LabBench:
    """Measures the cells of one plan on a model of the scenes world."""

    def __init__(self, plan: Plan) -> None:
        """Raises UsageError or RunError when the model cannot be loaded or a metric cannot be measured on it."""
        self.plan = plan
        if "prompt_accuracy" in plan.metrics:
            check_prompts(plan.prompts)
        if plan.images < FEWEST and {"fid", "kid"} & set(plan.metrics):
            raise UsageError(f"images: fid and kid need at least {FEWEST} images a cell, got {plan.images}")
        model = load(plan.model, plan.device, getattr(torch, plan.dtype))
        self.pipeline = Pipeline(model)
        self.context = self.pipeline.encode(plan.prompts)
        self.uncond = self.pipeline.encode([plan.negative])
        self.meters = Meters(plan.metrics, model)
        self._warm_up()

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts of the first pictures."""
        return [self._prompt(i) for i in range(min(_THUMBNAILS, self.plan.images))]

    def real(self) -> dict[str, tuple[float, float]]:
        """The metrics of as many real renders with captions of their own."""
        found = self.meters.real(self.plan.images)
        return {name: (value, found.stderr[name]) for name, value in found.values.items()}

    def run(self, cell: Cell, on_progress: Callable[[float], None]) -> CellResult:
        """Make the pictures of a cell, batch by batch, and measure them."""
        plan, pipeline = self.plan, self.pipeline
        rule = samplers.make(cell.sampler.name, **cell.sampler.options)
        strategy = guidance.make(cell.guidance.name, **cell.guidance.options)
        sigmas = samplers.grid(cell.grid.name, steps=cell.steps, levels=pipeline.levels, **cell.grid.options)
        batches = torch.arange(plan.images).split(plan.batch)
        seconds, per_pass, pictures = [], [], []
        counter = pipeline.denoiser
        images = passes = network = 0.0
        began = perf_counter()
        for k, batch in enumerate(batches):
            indices = batch.tolist()
            counter.reset()
            start = perf_counter()
            latents = pipeline.sample(
                self.context[[i % len(plan.prompts) for i in indices]],
                self.uncond.expand(len(indices), -1, -1),
                rule,
                sigmas,
                strategy,
                [plan.seed + i for i in indices],
                on_step=lambda i, _, k=k: on_progress((k + (i + 1) / len(sigmas)) / len(batches)),  # type: ignore[misc]
            )
            self._check(latents, indices)
            pictures.append(pipeline.decode(latents))
            seconds.append((perf_counter() - start) / len(indices))
            per_pass.append(counter.seconds / counter.images)
            images, passes, network = images + len(indices), passes + counter.images, network + counter.seconds
        result = self.meters.measure(torch.cat(pictures), [self._prompt(i) for i in range(plan.images)])
        on_progress(1.0)
        return CellResult(
            metrics=result.values,
            stderr=result.stderr,
            per_image={name: values.numpy() for name, values in result.per_image.items()},
            network_passes=passes / images,
            seconds_per_image=median(seconds),
            ms_per_pass=1000 * median(per_pass),
            network_share=network / (perf_counter() - began),
            thumbnails=to_bytes(torch.cat(pictures)[:_THUMBNAILS]).numpy(),
        )

    def _prompt(self, i: int) -> str:
        return self.plan.prompts[i % len(self.plan.prompts)]

    def _check(self, latents: Tensor, indices: list[int]) -> None:
        broken = ~latents.flatten(1).isfinite().all(1)
        if broken.any():
            first = indices[int(broken.nonzero()[0])]
            raise CellFailed(
                f"the model gave NaN or infinity in {int(broken.sum())} of {len(indices)} pictures, "
                f"the first with seed {self.plan.seed + first}"
            )

    def _warm_up(self) -> None:
        """Run every network once at the size it will see: the first call of a kernel is no measure of the others."""
        n = min(self.plan.batch, self.plan.images)
        rows = torch.arange(n) % len(self.plan.prompts)
        for rule in (guidance.make("none"), guidance.make("cfg", scale=2.0)):
            sigmas = (1.0, 0.5, 0.0)
            contexts = self.context[rows], self.uncond.expand(n, -1, -1)
            latents = self.pipeline.sample(*contexts, samplers.make("euler"), sigmas, rule, list(range(n)))
        self.pipeline.decode(latents)
