"""Diversity: how far apart the pictures of one prompt are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdlab.metrics.base import PICTURES, REPEATS, Result
from sdlab.metrics.features import Measure, OfFeatures, Statistics


class Diversity(OfFeatures):
    """The mean distance between the features of two pictures of one prompt.

    The value of a picture is its mean distance to the others of its prompt, so prompts count by their pictures. Recall
    and coverage compare with real pictures and cannot tell whether each prompt or only the set is diverse.
    """

    name = "diversity"
    label = "diversity (lab)"
    better = "higher"
    digits = 2
    about = "mean distance between two pictures of one prompt, on the features of FID; needs several of each prompt"
    needs = PICTURES | REPEATS
    fewest = 2
    statistics_suffice = True

    def to(self, reference: Tensor | Statistics) -> Measure:
        """The mean over the pictures. The real pictures are not used."""
        return estimate


def estimate(features: Tensor, units: Sequence[int]) -> Result:
    """The diversity of features (n, d); `units` (n,) are the prompts, each with several images."""
    found, prompts = torch.zeros(len(features)).double(), torch.tensor(units)
    for prompt in prompts.unique():
        rows = features[prompts == prompt].double()
        found[prompts == prompt] = torch.cdist(rows, rows).sum(1) / (len(rows) - 1)
    return Result.mean(found)
