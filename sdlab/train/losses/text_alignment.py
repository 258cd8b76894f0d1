"""Text–image alignment: CLIP's agreement of predicted pictures with their captions."""

from __future__ import annotations

import torch
from torch import Tensor

from sdlab.model.clip import Clip
from sdlab.train.losses.clip_size import at_size_of


def text_alignment_loss(clip: Clip, pictures: Tensor, tokens: Tensor) -> Tensor:
    """1 − cosine of the embeddings of pictures (B, 3, S, S) in [−1, 1] and captions (B, L), a scalar.

    Only the pictures get a gradient. (Radford et al. 2021, arXiv:2103.00020, section 2.3)
    """
    with torch.no_grad():
        text = clip.embed_text(tokens)
    return 1 - (clip.embed_image(at_size_of(clip.vision, pictures)) * text).sum(1).float().mean()
