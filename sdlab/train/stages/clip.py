"""Train CLIP's vision tower to agree with its text tower, which is ready and stays as it is.

The contrastive loss of CLIP (Radford et al. 2021, arXiv 2103.00020, figure 3) with one tower locked, after Zhai et al.
2022 (arXiv 2111.07991); with wrong captions that differ in one fact (Yuksekgonul et al. 2022, arXiv 2210.01936), and
with the facts that the text tower was grounded in (`sdlab.train.text`) asked of the pictures too.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlab.model.clip import Clip
from sdlab.system.errors import UsageError
from sdlab.train.config import TrainConfig
from sdlab.train.stages.text import FACTS, where
from sdlab.weights.model_folder import load_part, read_config, save_part
from sdlab.weights.vocabulary import tokenizer_in
from sdlab.worlds import scenes
from sdlab.worlds.scenes.captions import alter, state, word


class Agreeing(nn.Module):
    """A CLIP whose text tower is locked, and a linear reading of its pictures' embeddings."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip = clip
        clip.text.requires_grad_(False)
        self.where = nn.Linear(clip.image_projection.out_features, FACTS)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S), (B', L) -> scaled cosines (B, B'), and the logits of the pictures' facts (B, F)."""
        image, text = self.clip.embed_image(images), self.clip.embed_text(tokens)
        # A unit vector's entries are as small as the square root of their number is large.
        return self.clip.scale() * image @ text.T, self.where(image.shape[-1] ** 0.5 * image)


class ClipStage:
    """Pictures and captions -> a shared space."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, folder = config, Path(config.model)
        model = read_config(folder)
        if model.vision is None:
            raise UsageError(f"{folder / 'config.json'}: vision: a CLIP cannot be trained without one")
        torch.manual_seed(config.seed)
        clip = Clip(model.text, model.vision)
        ready = load_part(folder / "clip.safetensors", partial(Clip, model.text, model.vision), config.device)
        clip.text = ready.text
        self.trained = Agreeing(clip)
        self.tokenizer = tokenizer_in(folder, model.text.context_length)

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

        To it is added how badly the vision tower says what stands where.
        """
        world = scenes.sample(self.config.batch, generator, "train")
        images, right, wrong = self._batch(world, generator)
        logits, facts = (t.float() for t in self.trained(images, torch.cat([right, wrong])))  # (B, 2B), (B, F)
        n = len(images)
        target = torch.arange(n, device=logits.device)
        of_texts, of_images = F.cross_entropy(logits, target), F.cross_entropy(logits[:, :n].T, target)
        seen = F.binary_cross_entropy_with_logits(facts, where(world).to(facts.device))
        found = (logits.detach().argmax(1) == target).float().mean()
        return (of_texts + of_images) / 2 + self.config.grounding * seen, {
            "found": found,
            "near": _nearer(logits.detach()),
            "facts": seen,
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
        save_part(Path(self.config.model) / "clip.safetensors", self.trained.clip, torch.bfloat16)
        return {
            "found_among_256": float(torch.stack(found).mean()),
            "told_from_near_miss": float(torch.stack(near).mean()),
        }


def _nearer(logits: Tensor) -> Tensor:
    """How often a picture (B, 2B) is nearer to its caption than to the caption's near miss."""
    n = len(logits)
    return (logits[:, :n].diagonal() > logits[:, n:].diagonal()).float().mean()
