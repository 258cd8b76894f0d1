"""Peak signal-to-noise ratio (PSNR) between a picture and its image-to-image input."""

from __future__ import annotations

from math import log

from torch import Tensor

from sdlab.metrics.base import INPUTS, PICTURES, Meter, Metric, PerImage, Tools, given

EQUAL = 100.0  # dB, for equal pictures, instead of infinity
_RANGE = 2.0  # pictures are in [−1, 1]


class Psnr(Metric):
    """10 log₁₀ (range² / mean squared error), in dB."""

    name = "psnr"
    label = "PSNR"
    better = "higher"
    digits = 2
    about = "image-to-image: peak signal-to-noise ratio to the input picture, in dB"
    needs = PICTURES | INPUTS

    def open(self, tools: Tools) -> Meter:
        """Nothing is loaded."""
        return PerImage(lambda batch: psnr(given(batch.pictures), given(batch.inputs)))


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """PSNR in dB of pictures (N, 3, H, W) in [−1, 1] and others of the same shape, (N,), at most `EQUAL`."""
    error = (images - others).square().flatten(1).mean(1)
    return ((2 * log(_RANGE) - error.log()) * (10 / log(10))).clamp(max=EQUAL)
