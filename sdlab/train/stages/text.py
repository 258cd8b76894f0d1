"""Train CLIP's text tower on what captions mean: which colours, shapes and sizes stand in which half of the picture.

A contrastive loss makes a reader of bags of words (Yuksekgonul et al. 2022, arXiv 2210.01936): that "red left of blue"
puts the red object at the left is a fact of three words, and a short contrastive training never finds it. So the tower
is first grounded in the scenes themselves, and the vision tower then learns to agree with it (`sdlab.train.clip`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlab.model.clip import Clip
from sdlab.model.config import ClipTextConfig
from sdlab.model.tokenizer import train_vocabulary
from sdlab.system.errors import UsageError
from sdlab.system.files import make_folder
from sdlab.train.config import TrainConfig
from sdlab.train.folder import configuration, update
from sdlab.weights.model_folder import save_part
from sdlab.weights.vocabulary import tokenizer_in, write_vocabulary
from sdlab.worlds import scenes
from sdlab.worlds.scenes.captions import NOUNS, state, word
from sdlab.worlds.scenes.world import BACKGROUNDS, COLOURS, PIXELS, SHAPES, SIZES

_HALVES = ("left", "right", "top", "bottom")
_KINDS = (len(COLOURS), len(SHAPES), len(SIZES))
FACTS = len(_HALVES) * sum(_KINDS)


class Grounded(nn.Module):
    """A CLIP, and linear readings of its text tower's states."""

    def __init__(self, clip: Clip, text: ClipTextConfig) -> None:
        super().__init__()
        self.clip = clip
        self.where = nn.Linear(text.width, FACTS)
        self.background = nn.Linear(text.width, len(BACKGROUNDS))
        self.side = nn.Linear(text.width, 2)


def where(world: scenes.Scenes) -> Tensor:
    """Whether an object of each colour, shape and size has its centre in each half of a picture, (B, F) of 0 and 1."""
    x, y = world.centre.unbind(-1)  # (B, 2)
    middle = PIXELS / 2
    there = torch.arange(2) < world.count[:, None]
    inside = torch.stack([x < middle, x >= middle, y < middle, y >= middle], 1) & there[:, None]  # (B, halves, objects)
    marks = zip((world.colour, world.shape, world.size), _KINDS, strict=True)
    kinds = torch.cat([F.one_hot(values, n) for values, n in marks], dim=-1)  # (B, objects, kinds)
    return (inside.float() @ kinds.float()).clamp(max=1).flatten(1)


class TextStage:
    """Captions -> what the scenes they describe hold, and where."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, folder = config, Path(config.model)
        model = configuration(folder)
        make_folder(folder)
        if not (folder / "vocab.json").exists():
            write_vocabulary(folder, *train_vocabulary(_many_captions(config.seed), model.text.vocab_size))
        self.tokenizer = tokenizer_in(folder, model.text.context_length)
        self.text = replace(model.text, vocab_size=self.tokenizer.vocab_size)
        if model.vision is None:
            raise UsageError(f"{folder / 'config.json'}: vision: a CLIP cannot be trained without one")
        self.nouns = self.tokenizer(NOUNS)[:, 1]  # each is a single token
        torch.manual_seed(config.seed)
        self.trained = Grounded(Clip(self.text, model.vision), self.text)

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropies of the facts, read from any token behind the caption, and of each object's place.

        The place is read from the object's noun. Of the first object a causal tower cannot know it there, of the second
        it is one fact that the relation decides: the step from which the rest is learnt.
        """
        world = scenes.sample(self.config.batch, generator, "train")
        n, device = len(world), self.config.device
        tokens = self.tokenizer(scenes.describe(world, generator))
        ends = tokens.argmax(1)
        behind = ends + (torch.rand(n, generator=generator) * (tokens.shape[1] - ends)).long()
        states = self.trained.clip.text(tokens.to(device)).float()
        summary = states[torch.arange(n), behind]
        facts = F.binary_cross_entropy_with_logits(self.trained.where(summary).float(), where(world).to(device))
        ground = F.cross_entropy(self.trained.background(summary).float(), world.background.to(device))
        image, place = torch.isin(tokens, self.nouns).nonzero(as_tuple=True)  # nouns in the order of the objects
        thing = (image[1:] == image[:-1]).long()
        thing = torch.cat([thing.new_zeros(1), thing])
        sides = (world.centre[image, thing] >= PIXELS / 2).float().to(device)
        side = F.binary_cross_entropy_with_logits(self.trained.side(states[image, place]).float(), sides)
        return facts + 0.1 * ground + 0.3 * side, {"facts": facts, "background": ground, "side": side}

    def finish(self) -> dict[str, float]:
        """Of how many unseen two-object captions the side of each object is told; write the weights."""
        generator = torch.Generator().manual_seed(2**40 + self.config.seed)
        world = scenes.sample(4096, generator, "train")
        world = world[(world.count == 2).nonzero().squeeze(1)]
        captions = [word(s, c) for s, c in zip(state(world, generator, leave_out=False), _picks(world), strict=True)]
        tokens = self.tokenizer(captions).to(self.config.device)
        n, rows = len(world), torch.arange(len(world))
        states = self.trained.clip.text(tokens)[rows, tokens.argmax(1)]
        logits = self.trained.where(states).float().cpu().view(n, len(_HALVES), -1)
        first, second = world.centre.unbind(1)
        horizontal = world.relation < 2
        low = torch.where(horizontal, first[:, 0] < second[:, 0], first[:, 1] < second[:, 1])
        half = torch.where(horizontal, 0, 2) + (~low).long()  # where the first object is, if either axis tells
        told = []
        for offset, values in ((0, world.colour), (len(COLOURS), world.shape)):
            differ = values[:, 0] != values[:, 1]
            for k in range(2):
                here, there = half ^ k, half ^ k ^ 1
                index = offset + values[:, k]
                told.append((logits[rows, here, index] > logits[rows, there, index])[differ].float().mean())
        folder = Path(self.config.model)
        update(folder, text=self.text)
        save_part(folder / "clip.safetensors", self.trained.clip, torch.bfloat16)
        return {"sides_told": float(torch.stack(told).mean())}


def _picks(world: scenes.Scenes) -> Tensor:
    return torch.randint(1 << 30, (len(world), 8), generator=torch.Generator().manual_seed(2**40))


def _many_captions(seed: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    return scenes.describe(scenes.sample(20_000, generator), generator)
