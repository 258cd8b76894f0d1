"""The CLIP stage: the vision encoder is trained against the frozen, pretrained text encoder.

The loss is CLIP's contrastive loss (Radford et al. 2021, arXiv:2103.00020, figure 3) with a locked text encoder (Zhai
et al. 2022, arXiv:2111.07991). It adds wrong captions that differ in one fact (Yuksekgonul et al. 2022,
arXiv:2210.01936). The vision encoder also predicts the facts that the text encoder was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlab.model.clip import Clip
from sdlab.model.tokenizer import Tokenizer
from sdlab.train.optimizer import standard
from sdlab.train.randomness import measuring_generator
from sdlab.train.stage import Loss, Stage
from sdlab.train.stages.clip_config import ClipTraining
from sdlab.train.stages.clip_pair import ClipPairStage
from sdlab.train.world_pictures import WorldPictures
from sdlab.weights.model_folder import load_part, read_config, save_part
from sdlab.weights.vocabulary import tokenizer_in


class Agreeing(nn.Module):
    """A CLIP with a locked text encoder, and a linear probe for facts on its picture embeddings."""

    def __init__(self, clip: Clip, marks: int) -> None:
        super().__init__()
        self.clip = clip
        clip.text.requires_grad_(False)
        self.where = nn.Linear(clip.image_projection.out_features, marks)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled cosines (B, K) of images (B, 3, S, S) and tokens (K, L), and logits of the images' facts (B, F)."""
        image, text = self.clip.embed_image(images), self.clip.embed_text(tokens)
        # The entries of a unit vector shrink with the square root of its width.
        return self.clip.scale() * image @ text.T, self.where(image.shape[-1] ** 0.5 * image)


class Example(NamedTuple):
    """A batch of pictures and captions."""

    images: Tensor  # (B, 3, H, W)
    right: Tensor  # the tokens of the captions, (B, L)
    wrong: Tensor  # the tokens of one near miss each, (B, L)
    marks: Tensor  # what the pictures show, (B, F)


@dataclass(frozen=True)
class _Draw:
    source: WorldPictures[Any]
    n: int
    tokenizer: Tokenizer

    def __call__(self, generator: torch.Generator) -> Example:
        batch, world = self.source.batch(self.n, generator), self.source.world
        statements = batch.statements(generator)
        choices = torch.randint(1 << 30, (self.n, world.CHOICES + 2), generator=generator)
        right, wrong = [], []
        for statement, choose in zip(statements, choices, strict=True):
            wording, change = choose[: world.CHOICES], choose[world.CHOICES :]
            right.append(world.word(statement, wording))
            wrong.append(world.word(world.alter(statement, change), wording))
        return Example(batch.images(), self.tokenizer(right), self.tokenizer(wrong), world.marks(batch.truth))


class ClipStage(Stage):
    """The stage that maps pictures and captions to a shared space."""

    def __init__(self, config: ClipTraining, pictures: WorldPictures[Any]) -> None:
        self.config, folder = config, Path(config.model)
        model = read_config(folder)
        config.check_vision(model, "the clip stage")
        torch.manual_seed(config.seed)
        clip = config.network(model)
        ready = load_part(folder / "clip.safetensors", partial(config.network, model), config.device)
        clip.text = ready.text
        self.agreeing = Agreeing(clip, pictures.world.MARKS)
        self.trained = {"clip": standard(self.agreeing, config, stored=clip)}
        self.draw = _Draw(pictures, config.batch, tokenizer_in(folder, model.text))

    def losses(self, step: int, batch: Example) -> Iterator[Loss]:
        """The mean of two cross-entropies, plus `grounding` times the cross-entropy of the facts.

        The first picks the caption of a picture among all captions and near misses, the second the picture of a
        caption.
        """
        images, right, wrong, marks = (one.to(self.config.device) for one in batch)
        logits, facts = (t.float() for t in self.agreeing(images, torch.cat([right, wrong])))  # (B, 2B), (B, F)
        n = len(images)
        target = torch.arange(n, device=logits.device)
        of_texts, of_images = F.cross_entropy(logits, target), F.cross_entropy(logits[:, :n].T, target)
        seen = F.binary_cross_entropy_with_logits(facts, marks)
        found = (logits.detach().argmax(1) == target).float().mean()
        parts = {"found": found, "near": _nearer(logits.detach()), "facts": seen}
        yield Loss("clip", (of_texts + of_images) / 2 + self.config.grounding * seen, parts)

    def finish(self) -> dict[str, float]:
        """Measure how often a picture ranks its caption first among 256, and above a near miss. Write the weights.

        Raises:
            RunError: the weights cannot be written.
        """
        generator = measuring_generator(self.config.seed)
        found, near = [], []
        for _ in range(8):
            images, right, wrong, _ = (one.to(self.config.device) for one in replace(self.draw, n=256)(generator))
            logits = self.agreeing.clip(images, torch.cat([right, wrong])).float()
            found.append((logits[:, :256].argmax(1).cpu() == torch.arange(256)).float().mean())
            near.append(_nearer(logits))
        save_part(Path(self.config.model) / self.config.writes(), self.agreeing.clip, torch.bfloat16)
        return {
            "found_among_256": float(torch.stack(found).mean()),
            "told_from_near_miss": float(torch.stack(near).mean()),
        }


def clip_stage(config: ClipTraining) -> Stage:
    """The stage for a world, or for `data`, which has no ground truth.

    Raises:
        UsageError: a part of the model that the stage needs is missing, or `data` cannot be used.
        RunError: a weight file is damaged.
    """
    if config.data is None:
        return ClipStage(config, config.pictures("train"))
    return ClipPairStage(config, *(config.own_pictures(config.data, split) for split in ("train", "heldout")))


def _nearer(logits: Tensor) -> Tensor:
    """The share of pictures closer to their caption than to its near miss, from logits (B, 2B)."""
    n = len(logits)
    return (logits[:, :n].diagonal() > logits[:, n:].diagonal()).float().mean()
