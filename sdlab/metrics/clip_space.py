"""CLIP's embedding space: the model's CLIP, or OpenAI's from `[metric_files]`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sdlab.metrics import openai_clip
from sdlab.metrics.base import Batch, Complaint, Metric, Subject, Tools, given
from sdlab.metrics.files import MetricFiles
from sdlab.model.clip import Clip
from sdlab.model.tokenizer import Tokenizer


class OfClip(Metric):
    """A metric of embeddings of pictures and texts."""

    reads = frozenset({"clip"})

    def label_with(self, files: MetricFiles) -> str:
        """`"CLIP score (OpenAI)"` if that CLIP is set."""
        return self.label if files.clip is None else f"{self.label} (OpenAI)"

    def preparation(self, files: MetricFiles) -> str:
        """OpenAI's CLIP has a size of its own."""
        return super().preparation(files) if files.clip is None else openai_clip.PREPARATION

    def missing(self, files: MetricFiles) -> Iterator[Complaint]:
        """The missing files in the folder of OpenAI's CLIP."""
        if files.clip is not None:
            for line in openai_clip.missing_files(Path(files.clip)):
                yield "metric_files.clip", line

    def check(self, subject: Subject) -> Iterator[Complaint]:
        """Whether there is a CLIP with a vision tower."""
        if not subject.clip and subject.files.clip is None:
            yield (
                "metrics",
                f"needs a CLIP with a vision tower, which {subject.name} lacks; name a folder with OpenAI's CLIP as "
                "clip in [metric_files]",
            )

    def content(self, files: MetricFiles) -> Iterable[Path]:
        """The files of OpenAI's CLIP."""
        return [] if files.clip is None else openai_clip.content(Path(files.clip))


class ClipSpace:
    """Unit embeddings of pictures and texts. Each text is embedded once."""

    def __init__(self, clip: Clip, tokenizer: Tokenizer, prepare: Callable[[Tensor], Tensor] | None = None) -> None:
        """`prepare` turns pictures in [−1, 1] into the network's input; None if they already are."""
        self._clip, self._tokenizer, self._prepare = clip, tokenizer, prepare or (lambda pictures: pictures)
        self._texts: dict[str, Tensor] = {}

    @torch.no_grad()
    def pictures(self, pictures: Tensor) -> Tensor:
        """The embeddings of pictures (B, 3, H, W) in [−1, 1], (B, d) float32 on the CPU."""
        return self._clip.embed_image(self._prepare(pictures)).float().cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """The embeddings of texts, (B, d) float32 on the CPU."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._texts]:
            tokens = self._tokenizer(new).to(self._clip.log_scale.device)
            self._texts.update(zip(new, self._clip.embed_text(tokens).float().cpu(), strict=True))
        return torch.stack([self._texts[text] for text in texts])

    def batch(self, batch: Batch) -> Tensor:
        """The embeddings of the pictures of a batch, (B, d); use `batch.once(space.batch)`."""
        return self.pictures(given(batch.pictures))


def load(tools: Tools) -> ClipSpace:
    """OpenAI's CLIP if it is set, otherwise the model's; use `tools.shared(load)`."""
    if tools.files.clip is not None:
        return ClipSpace(*openai_clip.load(Path(tools.files.clip), tools.device))
    return ClipSpace(*given(tools.clip))
