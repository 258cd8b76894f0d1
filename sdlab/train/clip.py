"""Train CLIP on scenes and captions: the contrastive loss of its paper, with wrong captions that differ in one fact.

Radford et al. 2021, arXiv 2103.00020, figure 3; the near misses after Yuksekgonul et al. 2022, arXiv 2210.01936,
without which a CLIP reads a caption as a bag of words.

That alone does not teach what a relation means: "red left of blue" helps the text tower only once the vision tower
tells a red object at the left from one at the right, and the other way round, so neither begins. Each is therefore also
asked what stands in which half of the picture (`Grounded`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlab import scenes
from sdlab.errors import UsageError
from sdlab.model.clip import Clip
from sdlab.model.model_loader import save_part
from sdlab.model.tokenizer import Tokenizer, train_vocabulary, write_vocabulary
from sdlab.scenes.captions import alter, state, word
from sdlab.scenes.world import COLOURS, SHAPES, SIZES
from sdlab.train.config import TrainConfig
from sdlab.train.folder import configuration, update


class Grounded(nn.Module):
    """A CLIP, and a linear reading of each tower: which colours, shapes and sizes stand in which half of the picture."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip = clip
        facts = len(_HALVES) * (len(COLOURS) + len(SHAPES) + len(SIZES))
        self.of_image = nn.Linear(clip.image_projection.out_features, facts)
        self.of_text = nn.Linear(clip.text_projection.out_features, facts)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, S, S), (B', L) -> scaled cosines (B, B'), and the logits of the facts, (B, F) and (B', F)."""
        image, text = self.clip.embed_image(images), self.clip.embed_text(tokens)
        width = image.shape[-1] ** 0.5  # a unit vector's entries are that small
        return self.clip.scale() * image @ text.T, self.of_image(width * image), self.of_text(width * text)


_HALVES = ("left", "right", "top", "bottom")


def where(world: scenes.Scenes) -> Tensor:
    """Whether an object of each colour, shape and size has its centre in each half of the picture, (B, F) of 0 and 1."""
    x, y = world.centre.unbind(-1)  # (B, 2)
    middle = scenes.PIXELS / 2
    there = torch.arange(2) < world.count[:, None]
    inside = torch.stack([x < middle, x >= middle, y < middle, y >= middle], 1) & there[:, None]  # (B, halves, objects)
    kinds = torch.cat(
        [
            F.one_hot(world.colour, len(COLOURS)),
            F.one_hot(world.shape, len(SHAPES)),
            F.one_hot(world.size, len(SIZES)),
        ],
        dim=-1,
    )
    return (inside.float() @ kinds.float()).clamp(max=1).flatten(1)


class ClipStage:
    """Pictures and captions -> a shared space."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, folder = config, Path(config.model)
        model = configuration(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "vocab.json").exists():
            write_vocabulary(folder, *train_vocabulary(_many_captions(config.seed), model.text.vocab_size))
        tokenizer = Tokenizer.from_files(folder / "vocab.json", folder / "merges.txt", model.text.context_length)
        self.tokenizer = tokenizer
        self.text = replace(model.text, vocab_size=tokenizer.vocab_size)
        if model.vision is None:
            raise UsageError(f"{folder / 'config.json'}: vision: a CLIP cannot be trained without one")
        torch.manual_seed(config.seed)
        self.trained = Grounded(Clip(self.text, model.vision))

    def _batch(self, world: scenes.Scenes, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The pictures, the tokens of their captions, and those of a near miss of each."""
        n = len(world)
        statements = state(world, generator)
        choices = torch.randint(1 << 30, (n, 10), generator=generator)
        right = [word(s, c[:8]) for s, c in zip(statements, choices, strict=True)]
        wrong = [word(alter(s, c[8:]), c[:8]) for s, c in zip(statements, choices, strict=True)]
        device = self.config.device
        return scenes.render(world).to(device), self.tokenizer(right).to(device), self.tokenizer(wrong).to(device)

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of two cross-entropies: the right text for a picture (near misses too), the right picture for a text.

        To it is added how badly each tower says what stands where.
        """
        world = scenes.sample(self.config.batch, generator, "train")
        images, right, wrong = self._batch(world, generator)
        logits, of_image, of_text = (t.float() for t in self.trained(images, torch.cat([right, wrong])))  # (B, 2B), …
        n = len(images)
        target, facts = torch.arange(n, device=logits.device), where(world).to(logits.device)
        of_texts, of_images = F.cross_entropy(logits, target), F.cross_entropy(logits[:, :n].T, target)
        grounding = [F.binary_cross_entropy_with_logits(said, facts) for said in (of_image, of_text[:n])]
        found = (logits.detach().argmax(1) == target).float().mean()
        return (of_texts + of_images) / 2 + self.config.grounding * (grounding[0] + grounding[1]), {
            "found": found,
            "near": _nearer(logits.detach()),
            "image": grounding[0],
            "text": grounding[1],
        }

    def finish(self) -> dict[str, float]:
        """Share of unseen pictures whose caption is told from 255 others, and from its near miss; write the weights."""
        generator = torch.Generator().manual_seed(2**40 + self.config.seed)
        found, near = [], []
        for _ in range(8):
            images, right, wrong = self._batch(scenes.sample(256, generator, "train"), generator)
            logits = self.trained.clip(images, torch.cat([right, wrong])).float()
            found.append((logits[:, :256].argmax(1).cpu() == torch.arange(256)).float().mean())
            near.append(_nearer(logits))
        folder = Path(self.config.model)
        update(folder, text=self.text)
        save_part(folder / "clip.safetensors", self.trained.clip, torch.bfloat16)
        return {
            "found_among_256": float(torch.stack(found).mean()),
            "told_from_near_miss": float(torch.stack(near).mean()),
        }


def _nearer(logits: Tensor) -> Tensor:
    """How often a picture (B, 2B) is nearer to its caption than to the caption's near miss."""
    n = len(logits)
    return (logits[:, :n].diagonal() > logits[:, n:].diagonal()).float().mean()


def _many_captions(seed: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    return scenes.describe(scenes.sample(20_000, generator), generator)
