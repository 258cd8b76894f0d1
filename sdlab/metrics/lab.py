"""The lab evaluator, loaded once and run once per batch for all metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sdlab.metrics.base import Batch, Complaint, Subject, Tools, given
from sdlab.system.resources import find
from sdlab.weights.model_folder import load_part
from sdlab.worlds.scenes import PIXELS, Statement, parse
from sdlab.worlds.scenes.reader import Evaluator, Reading, readings

EVALUATOR = "data/scenes/evaluator.safetensors"


class Lab:
    """The loaded evaluator. `tools.shared(Lab)` returns the same one to every metric."""

    def __init__(self, tools: Tools) -> None:
        self.evaluator = load_part(find(EVALUATOR), Evaluator, tools.device)

    def heads(self, batch: Batch) -> dict[str, Tensor]:
        """The outputs of the network for the pictures; use `batch.once(lab.heads)`."""
        return self.evaluator(given(batch.pictures))

    def readings(self, batch: Batch) -> list[Reading]:
        """The reader's results for the pictures; use `batch.once(lab.readings)`."""
        return readings(batch.once(self.heads))

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """The pooled features of pictures (B, 3, 64, 64), (B, 64) on the CPU."""
        return raw_features(self.evaluator(pictures))


def raw_features(heads: dict[str, Tensor]) -> Tensor:
    """The pooled features among the outputs of the network, (B, 64) on the CPU."""
    return heads["features"].float().cpu()


def missing() -> Iterator[Complaint]:
    """A complaint if its weights are missing."""
    if not find(EVALUATOR).is_file():
        yield "metrics", f"the weights of the lab evaluator, {EVALUATOR}, were not found"


def check_size(subject: Subject, instead: str = "") -> Iterator[Complaint]:
    """A complaint unless the pictures have the evaluator's input size. `instead` suggests another way to measure."""
    if subject.size != (PIXELS, PIXELS):
        size = "of another size" if subject.size is None else f"{subject.size[0]} × {subject.size[1]}"
        reads = f"the lab evaluator reads pictures of {PIXELS} × {PIXELS} pixels"
        yield "metrics", f"{reads}, but those of {subject.name} are {size}{instead}"


def check_prompts(subject: Subject) -> Iterator[Complaint]:
    """A complaint with the first prompt that states nothing the reader can check."""
    wrong = next((prompt for prompt in subject.prompts if parse(prompt) is None), None)
    if wrong is not None:
        instead = "'a red circle above a small blue star on a grey background'"
        yield (
            "metrics",
            f"the prompt {wrong!r} names no object of the scenes world; write it like {instead}, "
            "or leave the metric out",
        )


def statements(prompts: Sequence[str]) -> list[Statement]:
    """The statements of prompts, all of which passed `check_prompts`."""
    return [given(parse(prompt)) for prompt in prompts]
