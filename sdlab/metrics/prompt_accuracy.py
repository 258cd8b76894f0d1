"""Prompt accuracy: the share of a prompt's attributes that are true of the picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from sdlab.metrics import lab
from sdlab.metrics.base import PICTURES, PROMPTS, Batch, Complaint, Meter, Metric, PerImage, Subject, Tools, given
from sdlab.metrics.files import MetricFiles
from sdlab.worlds.base import accuracy


class PromptAccuracy(Metric):
    """The share of stated attributes that the lab's reader finds in the picture."""

    name = "prompt_accuracy"
    label = "prompt accuracy"
    better = "higher"
    digits = 3
    about = "share of attributes stated in the prompt that the reader finds in the picture"
    needs = PICTURES | PROMPTS
    share = True

    def missing(self, files: MetricFiles) -> Iterable[Complaint]:
        """The evaluator's weights."""
        return lab.missing(files)

    def check(self, subject: Subject) -> Iterator[Complaint]:
        """Whether the reader can read the pictures and check the prompts."""
        yield from lab.check_size(subject)
        yield from lab.check_prompts(subject)

    def content(self, files: MetricFiles) -> Iterable[Path]:
        """The evaluator's weights."""
        return [lab.evaluator_file(files)]

    def open(self, tools: Tools) -> Meter:
        """Load the evaluator."""
        reader = tools.shared(lab.Lab)

        def measure(batch: Batch) -> Tensor:
            statements = reader.statements(given(batch.prompts))
            return torch.tensor(accuracy(reader.world, statements, batch.once(reader.readings)))

        return PerImage(measure)
