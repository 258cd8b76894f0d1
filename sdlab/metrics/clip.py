"""CLIP score, 100 × cosine of picture and prompt, by torchmetrics on our CLIP (Hessel et al. 2021, 2104.08718)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics.multimodal.clip_score import CLIPScore

from sdlab.model.clip import Clip
from sdlab.model.tokenizer import Tokenizer


class _Embedded:
    """What torchmetrics asks of a CLIP and its processor, for pictures and prompts that are embedded already.

    A "picture" is an embedding (D, 1, 1), and a prompt becomes its row in the table of text embeddings.
    """

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.texts = torch.empty(0, 0)
        self.config = SimpleNamespace()

    def __call__(
        self, text: list[str] | None = None, images: list[Tensor] | None = None, **_: object
    ) -> dict[str, Tensor]:
        if images is not None:
            return {"pixel_values": torch.stack(images)}
        rows = torch.tensor([self.rows[prompt] for prompt in text or []])
        return {"input_ids": rows, "attention_mask": torch.ones_like(rows)}

    def to(self, device: torch.device) -> _Embedded:
        return self

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        return pixel_values.flatten(1)

    def get_text_features(self, rows: Tensor, mask: Tensor) -> Tensor:
        return self.texts[rows]


class ClipScorer:
    """Scores of pictures against prompts; each picture and each prompt is embedded once."""

    def __init__(self, clip: Clip, tokenizer: Tokenizer, prepare: Callable[[Tensor], Tensor] | None = None) -> None:
        """`prepare` turns pictures into what the network was trained on, where they are not that already."""
        self.clip, self.tokenizer, self.prepare = clip, tokenizer, prepare or (lambda images: images)
        self._embedded = _Embedded()
        self._metric = CLIPScore(cast(Any, lambda: (self._embedded, self._embedded)))

    @torch.inference_mode()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The score of each picture (B, 3, H, W) in [−1, 1] with its prompt, (B,) in [0, 100]."""
        self._embed(prompts)
        scores = []
        for embedding, prompt in zip(self.clip.embed_image(self.prepare(images)).float().cpu(), prompts, strict=True):
            self._metric.reset()
            self._metric.update(embedding.view(1, -1, 1, 1), [prompt])
            scores.append(self._metric.compute())
        return torch.stack(scores)

    def _embed(self, prompts: Sequence[str]) -> None:
        table = self._embedded
        if new := [prompt for prompt in dict.fromkeys(prompts) if prompt not in table.rows]:
            texts = self.clip.embed_text(self.tokenizer(new).to(self.clip.log_scale.device)).float().cpu()
            table.rows.update({prompt: len(table.rows) + i for i, prompt in enumerate(new)})
            table.texts = torch.cat([table.texts, texts]) if len(table.texts) else texts
