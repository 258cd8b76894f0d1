"""Directional similarity: whether a picture was changed as its text was."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from sdlab.metrics import clip_space
from sdlab.metrics.base import (
    CAPTIONS,
    INPUTS,
    PICTURES,
    PROMPTS,
    Batch,
    Complaint,
    Meter,
    PerImage,
    Subject,
    Tools,
    given,
)


class DirectionalSimilarity(clip_space.OfClip):
    """The cosine between the change of the picture and the change of the text, in a CLIP's space.

    The picture changes from the input to the result, and the text from the caption of the input to the prompt. All four
    embeddings are unit vectors before they are subtracted. It is one minus the directional loss of StyleGAN-NADA
    (Gal et al. 2021, arXiv:2108.00946). An unchanged picture has no direction and counts as 0. The size of the change
    does not matter, so read it beside a distance to the input.
    """

    name = "directional_similarity"
    label = "directional similarity"
    better = "higher"
    digits = 3
    about = "image-to-image: cosine in CLIP's space of the change of the picture and the change of the text"
    needs = PICTURES | PROMPTS | INPUTS | CAPTIONS

    def check(self, subject: Subject) -> Iterator[Complaint]:
        """Whether there is a CLIP, and the text changes."""
        yield from super().check(subject)
        pairs = zip(subject.prompts, subject.captions, strict=True)
        if same := next((prompt for prompt, caption in pairs if prompt == caption), None):
            yield "metrics", f"the prompt {same!r} is also the caption of its input picture; the two should differ"

    def open(self, tools: Tools) -> Meter:
        """Load OpenAI's CLIP if it is set, otherwise use the model's."""
        space = tools.shared(clip_space.load)

        def measure(batch: Batch) -> Tensor:
            pictures = batch.once(space.batch) - space.pictures(given(batch.inputs))
            texts = space.texts(given(batch.prompts)) - space.texts(given(batch.captions))
            return F.cosine_similarity(pictures, texts)

        return PerImage(measure)
