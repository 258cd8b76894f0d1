"""How near a picture has stayed to the one that image-to-image made it from, a number each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from sdlab.worlds.scenes.reader import Evaluator

_RANGE = 2.0  # pictures lie in [−1, 1]
EQUAL = 100.0  # dB, what equal pictures are given in place of infinity


def psnr(images: Tensor, inputs: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log₁₀ (range² / mean squared error): (N, 3, H, W) twice -> (N,)."""
    ratios = peak_signal_noise_ratio(images, inputs, data_range=_RANGE, reduction="none", dim=(1, 2, 3))
    return ratios.clamp(max=EQUAL)


def ssim(images: Tensor, inputs: Tensor) -> Tensor:
    """Structural similarity in a Gaussian window of 11 pixels, the edges mirrored: (N, 3, H, W) twice -> (N,).

    Wang et al. 2004, Image Quality Assessment: From Error Visibility to Structural Similarity, equation 13.
    """
    scores = structural_similarity_index_measure(images, inputs, data_range=_RANGE, reduction="none")
    assert isinstance(scores, Tensor)
    return scores


def feature_distance(evaluator: Evaluator, images: Tensor, inputs: Tensor) -> Tensor:
    """Σ over two layers of the mean over places of ‖f̂ − f̂′‖², f̂ a layer's features over their length at each place.

    LPIPS (Zhang et al. 2018, arXiv 1801.03924, equation 1) with all weights 1, on the lab evaluator in place of a
    network for photographs: (N, 3, 64, 64) twice -> (N,), from 0 (the same) to 8 (opposite everywhere).
    """
    total = torch.zeros(len(images), device=images.device)
    a, b = images, inputs
    for layer in (evaluator.fine, evaluator.coarse):
        a, b = layer(a), layer(b)
        unit_a, unit_b = (F.normalize(features.float(), dim=1) for features in (a, b))
        total = total + (unit_a - unit_b).square().sum(1).mean((1, 2))
    return total
