"""Changes made: the share of requested changes that image-to-image carried out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sdlab.metrics import lab
from sdlab.metrics.base import INPUTS, PICTURES, PROMPTS, Complaint, Meter, Metric, PerImage, Subject, Tools, given
from sdlab.metrics.files import MetricFiles
from sdlab.worlds.base import R, S, T, World


class ChangesMade(Metric):
    """The share of attributes stated in the prompt and absent from the input that the lab's reader finds."""

    name = "changes_made"
    label = "changes made"
    better = "higher"
    digits = 3
    about = "image-to-image: share of attributes stated in the prompt and absent from the input that the reader finds"
    needs = PICTURES | PROMPTS | INPUTS
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
        return PerImage(
            lambda batch: changes_made(
                reader.world,
                reader.statements(given(batch.prompts)),
                reader.world.readings(reader.evaluator(given(batch.inputs))),
                batch.once(reader.readings),
            )
        )


def changes_made(world: World[T, S, R], statements: Sequence[S], before: Sequence[R], after: Sequence[R]) -> Tensor:
    """The share of each statement's facts false before that are true after, (B,) in [0, 1]; 1 if all were true."""
    shares = []
    for statement, old, new in zip(statements, before, after, strict=True):
        both = zip(world.check(statement, new), world.check(statement, old), strict=True)
        now = [holds for holds, held in both if not held]
        shares.append(sum(now) / len(now) if now else 1.0)
    return torch.tensor(shares)
