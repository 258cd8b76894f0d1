"""The picture size of CLIP's vision encoder."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sdlab.model.clip import ClipVision


def at_size_of(vision: ClipVision, images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) at the size that the network was trained on, resized if they have another."""
    side = vision.config.image_size
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bicubic", antialias=True)
