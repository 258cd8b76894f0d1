"""Train CLIP on scenes and captions: the contrastive loss of its paper, with wrong captions that differ in one fact.

Radford et al. 2021, arXiv 2103.00020, figure 3; the near misses after Yuksekgonul et al. 2022, arXiv 2210.01936,
without which a CLIP reads a caption as a bag of words.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab import scenes
from sdlab.errors import UsageError
from sdlab.model.clip import Clip
from sdlab.model.model_loader import save_part
from sdlab.model.tokenizer import Tokenizer, train_vocabulary, write_vocabulary
from sdlab.scenes.captions import alter, state, word
from sdlab.train.config import TrainConfig
from sdlab.train.folder import configuration, update


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
        self.trained = Clip(self.text, model.vision)

    def _batch(self, n: int, generator: torch.Generator, split: scenes.Split) -> tuple[Tensor, Tensor, Tensor]:
        """n pictures, the tokens of their captions, and those of a near miss of each."""
        world = scenes.sample(n, generator, split)
        statements = state(world, generator)
        choices = torch.randint(1 << 30, (n, 10), generator=generator)
        right = [word(s, c[:8]) for s, c in zip(statements, choices, strict=True)]
        wrong = [word(alter(s, c[8:]), c[:8]) for s, c in zip(statements, choices, strict=True)]
        device = self.config.device
        return scenes.render(world).to(device), self.tokenizer(right).to(device), self.tokenizer(wrong).to(device)

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of two cross-entropies: the right text for a picture (near misses too), the right picture for a text."""
        images, right, wrong = self._batch(self.config.batch, generator, "train")
        logits = self.trained(images, torch.cat([right, wrong])).float()  # (B, 2B)
        n = len(images)
        target = torch.arange(n, device=logits.device)
        of_texts, of_images = F.cross_entropy(logits, target), F.cross_entropy(logits[:, :n].T, target)
        found = (logits.detach().argmax(1) == target).float().mean()
        return (of_texts + of_images) / 2, {"found": found, "near": _nearer(logits.detach())}

    def finish(self) -> dict[str, float]:
        """Share of unseen pictures whose caption is told from 255 others, and from its near miss; write the weights."""
        generator = torch.Generator().manual_seed(2**40 + self.config.seed)
        found, near = [], []
        for _ in range(8):
            images, right, wrong = self._batch(256, generator, "train")
            logits = self.trained(images, torch.cat([right, wrong])).float()
            found.append((logits[:, :256].argmax(1).cpu() == torch.arange(256)).float().mean())
            near.append(_nearer(logits))
        folder = Path(self.config.model)
        update(folder, text=self.text)
        save_part(folder / "clip.safetensors", self.trained, torch.bfloat16)
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
