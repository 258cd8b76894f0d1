"""Saturation: how colourful a picture is."""

from __future__ import annotations

from torch import Tensor

from sdlab.metrics.base import PICTURES, Meter, Metric, PerImage, Tools, given


class Saturation(Metric):
    """The mean saturation of the pixels in HSV, (max − min)/max of red, green and blue, and 0 of black.

    Strong guidance raises it above that of real pictures, which is best.
    """

    name = "saturation"
    label = "saturation"
    better = "nearer to real"
    digits = 3
    about = "mean HSV saturation of the pixels; strong guidance raises it above that of real pictures"
    needs = PICTURES

    def open(self, tools: Tools) -> Meter:
        """Nothing is loaded."""
        return PerImage(lambda batch: saturation(given(batch.pictures)))


def saturation(pictures: Tensor) -> Tensor:
    """The saturation of pictures (B, 3, H, W) in [−1, 1], (B,) in [0, 1]."""
    colours = (pictures.float().clamp(-1, 1) + 1) / 2
    high, low = colours.amax(1), colours.amin(1)
    return ((high - low) / high.where(high > 0, 1)).mean((1, 2))
