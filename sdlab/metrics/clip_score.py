"""CLIP score, the similarity of picture and prompt in CLIP's embedding space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sdlab.metrics import openai_clip
from sdlab.metrics.base import PICTURES, PROMPTS, Complaint, Meter, Metric, PerImage, Subject, Tools, given
from sdlab.metrics.files import MetricFiles
from sdlab.model.clip import Clip
from sdlab.model.tokenizer import Tokenizer


class ClipScore(Metric):
    """max(100 × cosine of picture and prompt, 0) in a CLIP's space (Hessel et al. 2021, arXiv:2104.08718, §3)."""

    name = "clip_score"
    label = "CLIP score"
    better = "higher"
    digits = 2
    about = "100 × cosine of picture and prompt in the model's CLIP space, or OpenAI's from [metric_files]"
    needs = PICTURES | PROMPTS

    def label_with(self, files: MetricFiles) -> str:
        """`"CLIP score (OpenAI)"` if that CLIP is set."""
        return self.label if files.clip is None else "CLIP score (OpenAI)"

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

    def open(self, tools: Tools) -> Meter:
        """Load OpenAI's CLIP if it is set, otherwise use the model's."""
        if tools.files.clip is not None:
            score = Scorer(*openai_clip.load(Path(tools.files.clip), tools.device))
        else:
            score = Scorer(*given(tools.clip))
        return PerImage(lambda batch: score(given(batch.pictures), given(batch.prompts)))


class Scorer:
    """Scores of pictures with prompts. Each prompt is embedded once."""

    def __init__(self, clip: Clip, tokenizer: Tokenizer, prepare: Callable[[Tensor], Tensor] | None = None) -> None:
        """`prepare` turns pictures in [−1, 1] into the network's input; None if they already are."""
        self._clip, self._tokenizer, self._prepare = clip, tokenizer, prepare or (lambda pictures: pictures)
        self._texts: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """The score of each picture (B, 3, H, W) in [−1, 1] with its prompt, (B,) in [0, 100], on the CPU."""
        if new := [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]:
            tokens = self._tokenizer(new).to(self._clip.log_scale.device)
            self._texts.update(zip(new, self._clip.embed_text(tokens).float().cpu(), strict=True))
        images = self._clip.embed_image(self._prepare(pictures)).float().cpu()
        texts = torch.stack([self._texts[prompt] for prompt in prompts])
        return (100 * (images * texts).sum(1)).clamp(min=0)
