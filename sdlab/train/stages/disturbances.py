"""Disturbances of pictures: evaluators are trained on them, and measured under them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sdlab.picture import from_bytes, to_bytes

_NOISE = 0.1  # the standard deviation of the strongest noise, in units of half the range
_JPEG = 75  # the quality setting


def weather(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur half of the pictures and add noise of random strength to all: (B, 3, H, W) -> (B, 3, H, W)."""
    blurred = _blurred(images)
    mix = (torch.rand(len(images), 1, 1, 1, generator=generator) * 2 - 1).clamp(min=0)
    strength = _NOISE * torch.rand(len(images), 1, 1, 1, generator=generator).square()
    return torch.lerp(images, blurred, mix) + strength * torch.randn(images.shape, generator=generator)


def haze(images: Tensor, generator: torch.Generator) -> Tensor:
    """Halve the resolution of a third of the pictures, and vary contrast, brightness and noise: the shape stays."""
    b, _, height, width = images.shape
    coarse = F.interpolate(F.avg_pool2d(images, 2), (height, width), mode="bilinear")
    chosen = torch.rand(b, 1, 1, 1, generator=generator) < 1 / 3
    contrast = 1 + 0.08 * torch.randn(b, 1, 1, 1, generator=generator)
    brightness = 0.04 * torch.randn(b, 1, 1, 1, generator=generator)
    strength = _NOISE * torch.rand(b, 1, 1, 1, generator=generator)
    noise = strength * torch.randn(images.shape, generator=generator)
    return torch.where(chosen, coarse, images) * contrast + brightness + noise


def _blurred(images: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def _noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    return images + _NOISE * torch.randn(images.shape, generator=generator)


def _compressed(images: Tensor) -> Tensor:
    """The pictures after JPEG compression at quality 75."""
    pictures = []
    for pixels in to_bytes(images).numpy():
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG)
        pictures.append(np.array(Image.open(file)))
    return from_bytes(torch.from_numpy(np.stack(pictures)))


MEASURED: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "clean": lambda images, generator: images,
    "blur": lambda images, generator: _blurred(images),
    "noise": _noisy,
    "jpeg": lambda images, generator: _compressed(images),
}
"""The disturbances under which an evaluator's accuracy is stated: none, a 3 × 3 mean, noise of .1, and JPEG."""
