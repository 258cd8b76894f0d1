"""Structural similarity (SSIM) of a picture and its image-to-image input."""

from __future__ import annotations

from torch import Tensor

from sdlab.metrics.base import INPUTS, PICTURES, Meter, Metric, PerImage, Tools, given

_RANGE = 2.0  # pictures are in [−1, 1]


class Ssim(Metric):
    """SSIM (Wang et al. 2004, doi:10.1109/TIP.2003.819861, eq. 13)."""

    name = "ssim"
    label = "SSIM"
    better = "higher"
    digits = 3
    about = "image-to-image: structural similarity to the input picture, 1 when equal"
    needs = PICTURES | INPUTS

    def open(self, tools: Tools) -> Meter:
        """Nothing is loaded."""
        return PerImage(lambda batch: ssim(given(batch.pictures), given(batch.inputs)))


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """SSIM of pictures (N, 3, H, W) in [−1, 1] and others of the same shape, (N,).

    The window is a Gaussian of 11 pixels, with mirrored edges.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # slow to import

    scores = structural_similarity_index_measure(images, others, data_range=_RANGE, reduction="none")
    assert isinstance(scores, Tensor)
    return scores
