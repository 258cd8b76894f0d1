"""Feature distance: LPIPS on the lab evaluator, between a picture and its image-to-image input."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.metrics import lab
from sdlab.metrics.base import INPUTS, PICTURES, Complaint, Meter, Metric, PerImage, Subject, Tools, given
from sdlab.metrics.files import MetricFiles
from sdlab.worlds.evaluator import Evaluator


class FeatureDistance(Metric):
    """Σ over two layers of the mean over positions of ‖f̂ − ĝ‖².

    f̂ and ĝ are the layer's features of the two pictures, normalised to length 1 at each position. This is LPIPS with
    all weights 1 (Zhang et al. 2018, arXiv:1801.03924, eq. 1), on the lab evaluator instead of a network trained on
    photographs.
    """

    name = "feature_distance"
    label = "feature distance"
    better = "lower"
    digits = 3
    about = "image-to-image: LPIPS-like distance to the input picture, on features of the lab evaluator"
    needs = PICTURES | INPUTS

    def missing(self, files: MetricFiles) -> Iterable[Complaint]:
        """The evaluator's weights."""
        return lab.missing(files)

    def check(self, subject: Subject) -> Iterable[Complaint]:
        """Whether the evaluator can read the pictures."""
        return lab.check_size(subject)

    def content(self, files: MetricFiles) -> Iterable[Path]:
        """The evaluator's weights."""
        return [lab.evaluator_file(files)]

    def open(self, tools: Tools) -> Meter:
        """Load the evaluator."""
        evaluator = tools.shared(lab.Lab).evaluator
        return PerImage(lambda batch: feature_distance(evaluator, given(batch.pictures), given(batch.inputs)))


def feature_distance(evaluator: Evaluator, images: Tensor, others: Tensor) -> Tensor:
    """The distance between pictures, (N, 3, 64, 64) each -> (N,), from 0 (equal) to 8 (opposite everywhere)."""
    total = torch.zeros(len(images), device=images.device)
    f, g = images, others
    for layer in (evaluator.fine, evaluator.coarse):
        f, g = layer(f), layer(g)
        unit_f, unit_g = (F.normalize(features.float(), dim=1) for features in (f, g))
        total = total + (unit_f - unit_g).square().sum(1).mean((1, 2))
    return total
