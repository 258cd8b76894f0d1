"""What a sweep can measure of a cell: the names and how to read them; the files beside this one compute."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sdlab.metrics.files import MetricFiles

__all__ = ["METRICS", "MetricFiles", "MetricInfo", "labelled"]


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is written and read.

    `per_image` metrics are means of one number an image, so two cells can be compared image by image;
    the others (FID, KID) are properties of the whole set. Those `of_input` compare a picture with the one that
    image-to-image has made it from; those not `of_pictures` look at the samples themselves. What ranges over orders of
    magnitude is written in `powers` of ten.
    """

    name: str
    label: str
    better: Literal["lower", "higher"]
    per_image: bool
    digits: int
    about: str
    of_input: bool = False
    of_pictures: bool = True
    powers: bool = False

    def text(self, value: float) -> str:
        """`"3.21"`, or `"4.7e-03"`."""
        return f"{value:.{self.digits}{'e' if self.powers else 'f'}}"


METRICS = {
    info.name: info
    for info in (
        MetricInfo(
            "fid",
            "FID (lab)",
            "lower",
            False,
            2,
            "Fréchet distance to real pictures, on features of the lab evaluator, or of Inception from [metric_files]",
        ),
        MetricInfo(
            "kid",
            "KID (lab)",
            "lower",
            False,
            4,
            "kernel (MMD) distance to real pictures, on the same features",
        ),
        MetricInfo(
            "clip_score",
            "CLIP score",
            "higher",
            True,
            2,
            "100 × cosine of picture and prompt in the model's own CLIP space, or OpenAI's from [metric_files]",
        ),
        MetricInfo(
            "prompt_accuracy",
            "prompt accuracy",
            "higher",
            True,
            3,
            "share of the attributes stated in the prompt that the reader finds in the picture",
        ),
        MetricInfo(
            "changes_made",
            "changes made",
            "higher",
            True,
            3,
            "image-to-image: share of the attributes stated in the prompt and not in the input that the reader finds",
            of_input=True,
        ),
        MetricInfo(
            "psnr",
            "PSNR",
            "higher",
            True,
            2,
            "image-to-image: peak signal-to-noise ratio to the input picture, in dB",
            of_input=True,
        ),
        MetricInfo(
            "ssim",
            "SSIM",
            "higher",
            True,
            3,
            "image-to-image: structural similarity to the input picture, 1 when equal",
            of_input=True,
        ),
        MetricInfo(
            "feature_distance",
            "feature distance",
            "lower",
            True,
            3,
            "image-to-image: LPIPS-like distance to the input picture, between features inside the lab evaluator",
            of_input=True,
        ),
        MetricInfo(
            "reference_error",
            "reference error",
            "lower",
            True,
            2,
            "root-mean-square distance to where the probability flow ends from the same noise, of latents or samples",
            of_pictures=False,
            powers=True,
        ),
        MetricInfo(
            "w2",
            "W₂ (exact)",
            "lower",
            False,
            2,
            "2-Wasserstein (Fréchet) distance of the law of the samples from that of the data, for a Gaussian model",
            of_pictures=False,
            powers=True,
        ),
    )
}


def labelled(name: str, files: MetricFiles) -> MetricInfo:
    """The metric `name` with a label that says on what it is measured when these files are given."""
    info = METRICS[name]
    if name in ("fid", "kid") and files.inception is not None:
        return replace(info, label=f"{name.upper()} (Inception)")
    if name == "clip_score" and files.clip is not None:
        return replace(info, label="CLIP score (OpenAI)")
    return info
