"""Reader disagreement: how often the two readers of a world contradict each other about a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sdlab.metrics import lab
from sdlab.metrics.base import PICTURES, PROMPTS, Batch, Complaint, Meter, Metric, PerImage, Subject, Tools, given
from sdlab.metrics.files import MetricFiles
from sdlab.weights.model_folder import load_part
from sdlab.worlds.second_evaluator import SecondEvaluator


class ReaderDisagreement(Metric):
    """The share of stated attributes that one reader finds in the picture and the other does not.

    The second reader has another architecture and was trained on other pictures. Half of this share estimates the error
    of prompt accuracy, if the readers err equally often and rarely together.
    """

    name = "reader_disagreement"
    label = "reader disagreement"
    better = "lower"
    digits = 3
    about = "share of attributes stated in the prompt on which the world's two readers disagree; the judge's own error"
    needs = PICTURES | PROMPTS
    share = True

    def missing(self, files: MetricFiles) -> Iterable[Complaint]:
        """The weights of the two evaluators."""
        yield from lab.missing(files)
        yield from lab.missing(files, second=True)

    def check(self, subject: Subject) -> Iterator[Complaint]:
        """Whether the readers can read the pictures and check the prompts."""
        yield from lab.check_size(subject)
        yield from lab.check_prompts(subject)

    def content(self, files: MetricFiles) -> Iterable[Path]:
        """The weights of the two evaluators."""
        return [lab.evaluator_file(files), lab.evaluator_file(files, second=True)]

    def open(self, tools: Tools) -> Meter:
        """Load the evaluators."""
        reader = tools.shared(lab.Lab)
        world = reader.world
        network = partial(SecondEvaluator, world.HEADS)
        second = load_part(lab.evaluator_file(tools.files, second=True), network, tools.device)

        def measure(batch: Batch) -> Tensor:
            statements = reader.statements(given(batch.prompts))
            readings = zip(batch.once(reader.readings), world.readings(second(given(batch.pictures))), strict=True)
            shares = []
            for statement, pair in zip(statements, readings, strict=True):
                one, other = (world.check(statement, reading) for reading in pair)
                shares.append(sum(a != b for a, b in zip(one, other, strict=True)) / len(one))
            return torch.tensor(shares)

        return PerImage(measure)
