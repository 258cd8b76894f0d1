"""The bench: a loaded model and all that measures it. What cells share is computed once, when it is opened."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from math import ceil, nan
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import samplers
from sdlab import guidance
from sdlab.backends.custom import OwnPipeline
from sdlab.cpu.optimise import optimise_for_inference
from sdlab.metrics import Batch, Meters, Run, Tools
from sdlab.picture import read_picture, to_bytes
from sdlab.pipeline import Pipeline
from sdlab.sweep.cell import Cell, Choice
from sdlab.sweep.flow_ends import FlowEnds
from sdlab.sweep.plan import Pictures, Plan
from sdlab.sweep.prompts import picture_set
from sdlab.sweep.results import CellFailed, CellResult
from sdlab.system.device import enough_memory
from sdlab.system.errors import SdlabError
from sdlab.weights.model_loader import load

_THUMBNAILS = 8  # pictures of a cell that the contact sheet shows
_SIDE = 256  # pixels, at most, of a thumbnail


class LabBench:
    """Measures the cells of one plan."""

    def __init__(self, plan: Plan) -> None:
        """Raises UsageError or RunError when the model cannot be loaded or a metric cannot be measured on it."""
        self.plan = plan
        self.pictures: Tensor | None = None  # (P, 3, H, W), white where a prompt has none
        self.tools = Tools(device=plan.device)
        self.pipeline = self._load() if plan.own is None else self._own(plan.own)
        self.meters = Meters(plan.measures, self.tools)
        whole = list(range(plan.images))
        batches = [whole[k : k + plan.batch] for k in range(0, plan.images, plan.batch)]
        self.flow_ends = FlowEnds(self.pipeline, self._contexts, batches, plan.seed)
        self._warm_up()

    def _load(self) -> Pipeline:
        """A text-to-image model, with the contexts (P, …) of the prompts."""
        plan = self.plan
        model = load(plan.source, plan.device, getattr(torch, plan.dtype))
        optimise_for_inference(model, plan.compile)
        pipeline = Pipeline(model)
        for prompt in dict.fromkeys((*plan.prompts, plan.negative)):
            if cut := model.tokenizer.cut(prompt):
                print(f"note: the prompt {prompt!r} is too long, dropped from its end: {cut!r}", file=sys.stderr)
        self.context, self.uncond = pipeline.encode(plan.prompts), pipeline.encode([plan.negative])
        if plan.pictures is not None:
            self.pictures = _read(plan.pictures, len(plan.prompts), model.config.image_size)
            self.init = pipeline.encode_image(self.pictures)
        self.tools = Tools(
            size=(model.config.image_size, model.config.image_size),
            clip=None if model.clip is None else (model.clip, model.tokenizer),
            files=plan.metric_files,
            device=plan.device,
        )
        return pipeline

    def _own(self, model: Choice) -> OwnPipeline:
        """A model of one's own, with the conditions (C, …) it brings."""
        pipeline = OwnPipeline(model.name, model.options, self.plan.device)
        self.context, self.uncond = pipeline.cond, pipeline.uncond
        return pipeline

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts of the thumbnails; of a model without prompts the seeds."""
        if self.plan.own is not None:
            return [f"seed {self.plan.seed + i}" for i in range(self._shown)]
        return [self._prompt(i) for i in range(self._shown)]

    @property
    def inputs(self) -> NDArray[np.uint8] | None:
        """The input pictures of the thumbnails (K, H, W, 3), white where there is none."""
        return None if self.pictures is None else self._thumbnails(self.pictures[self._rows(list(range(self._shown)))])

    def real(self) -> dict[str, tuple[float, float]]:
        """The metrics of as many real renders with captions of their own, for a model of the scenes world."""
        found = self.meters.real(self.plan.images)
        return {name: (result.value, result.stderr or 0.0) for name, result in found.items()}

    def run(self, cell: Cell, on_progress: Callable[[float], None]) -> CellResult:
        """Make the pictures of a cell, batch by batch, and measure them."""
        try:
            with enough_memory("a smaller batch needs less"):
                return self._run(cell, on_progress)
        except SdlabError as error:  # or a model of the user's own that fails at some level only
            raise CellFailed(str(error)) from None

    def _run(self, cell: Cell, on_progress: Callable[[float], None]) -> CellResult:
        plan, pipeline = self.plan, self.pipeline
        rule = samplers.make(cell.sampler.name, **cell.sampler.options)
        strategy = guidance.make(cell.guidance.name, **cell.guidance.options)
        sigmas = samplers.grid(cell.grid.name, steps=cell.steps, levels=pipeline.levels, **cell.grid.options)
        batches = self._batches(cell)
        measurement = self.meters.start(
            Run(
                images=plan.images,
                sampler=rule.with_levels(pipeline.levels),
                sigmas=sigmas,
                law=None if plan.own_model is None else plan.own_model.law,
                flow_ends=lambda: self.flow_ends.of(cell.guidance, sigmas, on_step=lambda: on_progress(0.0)),
            )
        )
        seconds, per_pass = [], []
        shown: dict[int, NDArray[np.uint8]] = {}
        counter = pipeline.denoiser
        images = passes = network = 0.0
        began = perf_counter()
        for k, (strength, indices) in enumerate(batches):
            counter.reset()
            start = perf_counter()
            latents = pipeline.sample(
                *self._contexts(indices),
                rule,
                sigmas,
                strategy,
                [plan.seed + i for i in indices],
                on_step=lambda i, _, k=k: on_progress((k + (i + 1) / len(sigmas)) / len(batches)),  # type: ignore[misc]
                init=None if strength == 1 else self.init[self._rows(indices)],
                strength=strength,
            )
            self._check(latents, indices)
            pictures = pipeline.decode(latents)
            seconds.append((perf_counter() - start) / len(indices))
            if counter.images:
                per_pass.append(counter.seconds / counter.images)
            images, passes, network = images + len(indices), passes + counter.images, network + counter.seconds
            measurement.update(self._batch(indices, latents, pictures))
            kept = [k for k, i in enumerate(indices) if i < self._shown]
            if pictures is not None and kept:
                shown.update(zip([indices[k] for k in kept], self._thumbnails(pictures[kept]), strict=True))
        found = measurement.results()
        on_progress(1.0)
        return CellResult(
            metrics={name: result.value for name, result in found.items()},
            stderr={name: result.stderr for name, result in found.items() if result.stderr is not None},
            per_image={
                name: result.per_image.numpy() for name, result in found.items() if result.per_image is not None
            },
            network_passes=passes / images,
            seconds_per_image=median(seconds),
            ms_per_pass=1000 * median(per_pass) if per_pass else nan,
            network_share=network / (perf_counter() - began),
            thumbnails=np.stack([shown[i] for i in sorted(shown)]) if shown else np.empty((0, 1, 1, 3), np.uint8),
        )

    def _batch(self, indices: list[int], samples: Tensor, pictures: Tensor | None) -> Batch:
        """What metrics see of some images of a cell."""
        inputs = None if self.pictures is None else self.pictures[self._rows(indices)].to(samples.device)
        prompts = [self._prompt(i) for i in indices] if self.plan.prompts else None
        return Batch(indices, pictures, prompts, inputs, samples)

    def _contexts(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Conditional and unconditional, a row for each of these images."""
        return self.context[self._rows(indices)], self.uncond.expand(len(indices), *self.uncond.shape[1:])

    def _rows(self, indices: list[int]) -> list[int]:
        return [i % len(self.context) for i in indices]

    def _batches(self, cell: Cell) -> list[tuple[float, list[int]]]:
        """Images that are sampled together, with their strength: 1 for those that start from no picture."""
        alike: dict[float, list[int]] = {}
        for i in range(self.plan.images):
            strength = cell.strength if self.plan.starts_from_a_picture(i) else None
            alike.setdefault(1.0 if strength is None else strength, []).append(i)
        size = self.plan.batch
        return [(s, group[k : k + size]) for s, group in alike.items() for k in range(0, len(group), size)]

    def _prompt(self, i: int) -> str:
        return self.plan.prompts[i % len(self.plan.prompts)]

    @property
    def _shown(self) -> int:
        """How many pictures of a cell are kept: without metrics they are what the sweep is for."""
        if isinstance(self.pipeline, OwnPipeline) and self.pipeline.model.decode is None:
            return 0
        return min(_THUMBNAILS, self.plan.images) if self.plan.metrics else self.plan.images

    def _thumbnails(self, images: Tensor) -> NDArray[np.uint8]:
        """(K, H, W, 3), made smaller where they are large and the numbers are what counts."""
        factor = ceil(max(images.shape[-2:]) / _SIDE) if self.plan.metrics else 1
        return to_bytes(F.avg_pool2d(images, factor)).numpy()

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
        for rule in (guidance.make("none"), guidance.make("cfg", scale=2.0)):
            sigmas = (self.pipeline.levels.sigma_max, self.pipeline.levels.sigma_min, 0.0)
            contexts, seeds = self._contexts(list(range(n))), list(range(n))
            latents = self.pipeline.sample(*contexts, samplers.make("euler"), sigmas, rule, seeds)
        self.pipeline.decode(latents)


def _read(pictures: Pictures, prompts: int, side: int) -> Tensor:
    """The input picture of each prompt, (P, 3, side, side), white where there is none."""
    if pictures.set is not None:
        return picture_set(pictures.set, prompts)
    blank = torch.ones(3, side, side)
    files = {file: read_picture(Path(file), (side, side), pictures.fit) for file in set(pictures.files) if file}
    return torch.stack([blank if file is None else files[file] for file in pictures.files])
