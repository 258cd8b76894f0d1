"""What a sweep can measure of a cell: the names and how to read them; the files beside this one compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is written and read.

    `per_image` metrics are means of one number an image, so two cells can be compared image by image;
    the others (FID, KID) are properties of the whole set.
    """

    name: str
    label: str
    better: Literal["lower", "higher"]
    per_image: bool
    digits: int
    about: str


METRICS = {
    info.name: info
    for info in (
        MetricInfo(
            "fid",
            "FID (lab)",
            "lower",
            False,
            2,
            "Fréchet distance to real renders, on the features of the lab evaluator (not Inception)",
        ),
        MetricInfo(
            "kid",
            "KID (lab)",
            "lower",
            False,
            4,
            "kernel (MMD) distance to real renders, on the features of the lab evaluator",
        ),
        MetricInfo(
            "clip_score",
            "CLIP score",
            "higher",
            True,
            2,
            "100 × cosine of picture and prompt in the model's own CLIP space",
        ),
        MetricInfo(
            "prompt_accuracy",
            "prompt accuracy",
            "higher",
            True,
            3,
            "share of the attributes stated in the prompt that the reader finds in the picture",
        ),
    )
}
