"""The lab evaluator of a world, loaded once and run once per batch for all metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdlab.metrics.base import Batch, Complaint, Subject, Tools, given
from sdlab.metrics.files import MetricFiles
from sdlab.system.resources import find
from sdlab.weights.model_folder import load_part
from sdlab.worlds.evaluator import Evaluator
from sdlab.worlds.registry import WORLDS, AnyWorld, open_world

_DEFAULT = next(iter(WORLDS))
FEATURES = 64  # of the evaluator
EVALUATOR, SECOND = "data/{}/evaluator.safetensors", "data/{}/second_evaluator.safetensors"


class Lab:
    """The loaded evaluator and its world. `tools.shared(Lab)` returns the same one to every metric."""

    def __init__(self, tools: Tools) -> None:
        self.world = world(tools.files)
        self.evaluator = load_part(evaluator_file(tools.files), partial(Evaluator, self.world.HEADS), tools.device)

    def heads(self, batch: Batch) -> Mapping[str, Tensor]:
        """The outputs of the network for the pictures; use `batch.once(lab.heads)`."""
        return self.evaluator(given(batch.pictures))

    def readings(self, batch: Batch) -> list[Any]:
        """What the reader saw in the pictures; use `batch.once(lab.readings)`."""
        return self.world.readings(batch.once(self.heads))

    def statements(self, prompts: Sequence[str]) -> list[Any]:
        """The statements of prompts, all of which passed `check_prompts`."""
        return [given(self.world.parse(prompt)) for prompt in prompts]

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """The pooled features of pictures (B, 3, 64, 64), (B, 64) on the CPU."""
        return raw_features(self.evaluator(pictures))


def raw_features(heads: Mapping[str, Tensor]) -> Tensor:
    """The pooled features among the outputs of the network, (B, 64) on the CPU."""
    return heads["features"].float().cpu()


def world(files: MetricFiles) -> AnyWorld:
    """The world whose evaluator judges the pictures."""
    return open_world(files.world or _DEFAULT)


def world_of(prompts: Sequence[str]) -> str | None:
    """The world that most prompts are about, or None if it is the default one."""

    def about(name: str) -> int:
        return sum(open_world(name).parse(prompt) is not None for prompt in prompts)

    best = max(WORLDS, key=about)
    return None if best == _DEFAULT else best


def evaluator_file(files: MetricFiles, *, second: bool = False) -> Path:
    """The weights of the evaluator, or of the second one."""
    return find(_name(files, second))


def _name(files: MetricFiles, second: bool) -> str:
    return (SECOND if second else EVALUATOR).format(files.world or _DEFAULT)


def missing(files: MetricFiles, *, second: bool = False) -> Iterator[Complaint]:
    """A complaint if the evaluator's weights are missing."""
    if not evaluator_file(files, second=second).is_file():
        which = "second lab evaluator" if second else "lab evaluator"
        yield "metrics", f"the weights of the {which}, {_name(files, second)}, were not found"


def check_size(subject: Subject, instead: str = "") -> Iterator[Complaint]:
    """A complaint unless the pictures have the evaluator's input size. `instead` suggests another way to measure."""
    height, width = world(subject.files).SIZE
    if subject.size != (height, width):
        size = "of another size" if subject.size is None else f"{subject.size[0]} × {subject.size[1]}"
        reads = f"the lab evaluator reads pictures of {height} × {width} pixels"
        yield "metrics", f"{reads}, but those of {subject.name} are {size}{instead}"


def check_prompts(subject: Subject) -> Iterator[Complaint]:
    """A complaint with the first prompt that states nothing the reader can check."""
    judge = world(subject.files)
    wrong = next((prompt for prompt in subject.prompts if judge.parse(prompt) is None), None)
    if wrong is not None:
        yield (
            "metrics",
            f"the prompt {wrong!r} states nothing about the {subject.files.world or _DEFAULT} world; "
            f"write it like {judge.EXAMPLE!r}, or leave the metric out",
        )
