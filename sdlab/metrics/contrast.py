"""Contrast: how much the brightness of a picture varies."""

from __future__ import annotations

import torch
from torch import Tensor

from sdlab.metrics.base import PICTURES, Meter, Metric, PerImage, Tools, given

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601


class Contrast(Metric):
    """RMS contrast: the standard deviation of the pixels' luma in [0, 1].

    Luma is 0.299 R + 0.587 G + 0.114 B. Strong guidance raises it above that of real pictures, which is best.
    """

    name = "contrast"
    label = "contrast"
    better = "nearer to real"
    digits = 3
    about = "standard deviation of the luma of the pixels; strong guidance raises it above that of real pictures"
    needs = PICTURES

    def open(self, tools: Tools) -> Meter:
        """Nothing is loaded."""
        return PerImage(lambda batch: contrast(given(batch.pictures)))


def contrast(pictures: Tensor) -> Tensor:
    """The contrast of pictures (B, 3, H, W) in [−1, 1], (B,) in [0, 0.5]."""
    colours = (pictures.float().clamp(-1, 1) + 1) / 2
    luma = torch.einsum("c, bchw -> bhw", colours.new_tensor(_LUMA), colours)
    return luma.flatten(1).std(1, correction=0)
