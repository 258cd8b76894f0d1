"""The CLIP stage on a user's pictures: both encoders are trained together.

The loss is CLIP's contrastive loss (Radford et al. 2021, arXiv:2103.00020, figure 3). Such pictures have no ground
truth to train the text encoder on beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.model.tokenizer import Tokenizer
from sdlab.train.data import CaptionedPictures
from sdlab.train.folder import configuration, update
from sdlab.train.optimizer import standard
from sdlab.train.randomness import measuring_generator
from sdlab.train.sources.own_pictures import OwnPictures
from sdlab.train.stage import Loss, Stage
from sdlab.train.stages.clip_config import ClipTraining
from sdlab.train.vocabulary import tokenizer_for
from sdlab.weights.model_folder import save_part

_MEASURED = 256  # pictures of a measurement, at most


@dataclass(frozen=True)
class _Draw:
    """Pictures (B, 3, H, W), and the tokens of their captions (B, L)."""

    source: CaptionedPictures
    n: int
    tokenizer: Tokenizer

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        batch = self.source.batch(self.n, generator)
        tokens = self.tokenizer(batch.captions(generator))
        return batch.images(), tokens


class ClipPairStage(Stage):
    """The stage that maps pictures and captions to a shared space, from pairs alone."""

    def __init__(self, config: ClipTraining, pictures: OwnPictures, unseen: OwnPictures) -> None:
        self.config, self.pictures, folder = config, pictures, Path(config.model)
        self.unseen = unseen
        model = configuration(folder)
        config.check_vision(model, "the clip stage")
        self.tokenizer = tokenizer_for(folder, model.text, self._captions)
        self.text = replace(model.text, vocab_size=self.tokenizer.vocab_size)
        torch.manual_seed(config.seed)
        self.clip = config.network(replace(model, text=self.text))
        self.draw = _Draw(pictures, config.batch, self.tokenizer)
        self.trained = {"clip": standard(self.clip, config)}

    def _captions(self) -> list[str]:
        return [caption for one in self.pictures.entries for caption in one.captions]

    def losses(self, step: int, batch: tuple[Tensor, Tensor]) -> Iterator[Loss]:
        """The mean of two cross-entropies: of the caption of a picture, and of the picture of a caption.

        Pictures whose captions have the same tokens are all right answers, with equal weight.
        """
        logits, same = self._compare(*batch)
        target = same / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        yield Loss("clip", loss, {"found": _found(logits.detach(), same)})

    def _compare(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled cosines (B, B) of pictures and captions, and 1 where two captions are equal, (B, B)."""
        tokens = tokens.to(self.config.device)
        logits = self.clip(images.to(self.config.device), tokens).float()
        return logits, (tokens[:, None] == tokens[None]).all(2).float()

    def finish(self) -> dict[str, float]:
        """Measure how often an unseen picture ranks its caption first. Write the weights.

        Raises:
            UsageError: `config.json` is invalid.
            RunError: a file cannot be written.
        """
        n = min(_MEASURED, len(self.unseen))
        logits, same = self._compare(*_Draw(self.unseen, n, self.tokenizer)(measuring_generator(self.config.seed)))
        folder = Path(self.config.model)
        update(folder, text=self.text)
        save_part(folder / self.config.writes(), self.clip, torch.bfloat16)
        return {f"found_among_{n}": float(_found(logits, same))}


def _found(logits: Tensor, same: Tensor) -> Tensor:
    """The share of pictures whose first caption is theirs, from logits and equality (n, n)."""
    return same.gather(1, logits.argmax(1, keepdim=True)).mean()
