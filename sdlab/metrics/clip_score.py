"""CLIP score, the similarity of picture and prompt in CLIP's embedding space."""

from __future__ import annotations

from torch import Tensor

from sdlab.metrics import clip_space
from sdlab.metrics.base import PICTURES, PROMPTS, Meter, PerImage, Tools, given


class ClipScore(clip_space.OfClip):
    """max(100 × cosine of picture and prompt, 0) in a CLIP's space (Hessel et al. 2021, arXiv:2104.08718, §3)."""

    name = "clip_score"
    label = "CLIP score"
    better = "higher"
    digits = 2
    about = "100 × cosine of picture and prompt in the model's CLIP space, or OpenAI's from [metric_files]"
    needs = PICTURES | PROMPTS

    def open(self, tools: Tools) -> Meter:
        """Load OpenAI's CLIP if it is set, otherwise use the model's."""
        space = tools.shared(clip_space.load)
        return PerImage(lambda batch: score(batch.once(space.batch), space.texts(given(batch.prompts))))


def score(pictures: Tensor, prompts: Tensor) -> Tensor:
    """The score of each picture with its prompt, both embedded as unit vectors (B, d): (B,) in [0, 100]."""
    return (100 * (pictures * prompts).sum(1)).clamp(min=0)
