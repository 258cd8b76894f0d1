"""The text stage: CLIP's text encoder is trained to encode which colours, shapes and sizes are in which half.

A contrastive loss alone yields bags of words (Yuksekgonul et al. 2022, arXiv:2210.01936). "red left of blue" places the
red object through three words together, and a short contrastive training does not learn that. The text encoder is
therefore trained first, on the scenes themselves. The clip stage then trains the vision encoder against it.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from sdlab.train.folder import configuration, update
from sdlab.train.optimizer import standard
from sdlab.train.stage import Loss
from sdlab.train.stages.text_config import TextTraining
from sdlab.train.world_pictures import WorldPictures
from sdlab.weights.model_folder import save_part
from sdlab.weights.vocabulary import tokenizer_in, write_vocabulary
from sdlab.worlds.scenes.captions import NOUNS, state, word
from sdlab.worlds.scenes.world import BACKGROUNDS, COLOURS, PIXELS, SHAPES, SIZES, Scenes

_HALVES = ("left", "right", "top", "bottom")
_KINDS = (len(COLOURS), len(SHAPES), len(SIZES))
FACTS = len(_HALVES) * sum(_KINDS)


class Grounded(nn.Module):
    """A CLIP, and linear probes for facts on the states of its text encoder."""

    def __init__(self, clip: Clip, text: ClipTextConfig) -> None:
        super().__init__()
        self.clip = clip
        self.where = nn.Linear(text.width, FACTS)
        self.background = nn.Linear(text.width, len(BACKGROUNDS))
        self.side = nn.Linear(text.width, 2)


def where(world: Scenes) -> Tensor:
    """Whether each half of a picture has an object's centre of each colour, shape and size, (B, F), 0 or 1."""
    x, y = world.centre.unbind(-1)  # (B, 2)
    middle = PIXELS / 2
    there = torch.arange(2) < world.count[:, None]
    inside = torch.stack([x < middle, x >= middle, y < middle, y >= middle], 1) & there[:, None]  # (B, halves, objects)
    marks = zip((world.colour, world.shape, world.size), _KINDS, strict=True)
    kinds = torch.cat([F.one_hot(values, n) for values, n in marks], dim=-1)  # (B, objects, kinds)
    return (inside.float() @ kinds.float()).clamp(max=1).flatten(1)


class TextStage:
    """The stage that maps captions to the described objects and their positions."""

    def __init__(self, config: TextTraining, pictures: WorldPictures[Scenes]) -> None:
        self.config, self.pictures, folder = config, pictures, Path(config.model)
        model = configuration(folder)
        make_folder(folder)
        if not (folder / "vocab.json").exists():
            write_vocabulary(folder, *train_vocabulary(self._many_captions(), model.text.vocab_size))
        self.tokenizer = tokenizer_in(folder, model.text.context_length)
        self.text = replace(model.text, vocab_size=self.tokenizer.vocab_size)
        if model.vision is None:
            raise UsageError(f"{folder / 'config.json'}: `vision` is null; the text stage needs a vision encoder")
        self.nouns = self.tokenizer(NOUNS)[:, 1]  # each is a single token
        torch.manual_seed(config.seed)
        self.grounded = Grounded(Clip(self.text, model.vision), self.text)
        self.trained = {"text": standard(self.grounded, config, stored=self.grounded.clip)}

    def _many_captions(self) -> list[str]:
        generator = torch.Generator().manual_seed(self.config.seed)
        return self.pictures.batch(20_000, generator).captions(generator)

    def losses(self, step: int, generator: torch.Generator) -> Iterator[Loss]:
        """Cross-entropies of the facts and of each object's position.

        The facts are predicted from every token from the end token on. The position is predicted from the object's
        noun. There it is unknown to a causal transformer for the first object, and for the second it depends on one
        fact, the relation. The rest is learnt from this step.
        """
        batch = self.pictures.batch(self.config.batch, generator)
        world = batch.truth
        n, device = len(world), self.config.device
        tokens = self.tokenizer(batch.captions(generator))
        ends = tokens.argmax(1)
        behind = ends + (torch.rand(n, generator=generator) * (tokens.shape[1] - ends)).long()
        states = self.grounded.clip.text(tokens.to(device)).float()
        summary = states[torch.arange(n), behind]
        facts = F.binary_cross_entropy_with_logits(self.grounded.where(summary).float(), where(world).to(device))
        ground = F.cross_entropy(self.grounded.background(summary).float(), world.background.to(device))
        image, place = torch.isin(tokens, self.nouns).nonzero(as_tuple=True)  # nouns in the order of the objects
        thing = (image[1:] == image[:-1]).long()
        thing = torch.cat([thing.new_zeros(1), thing])
        sides = (world.centre[image, thing] >= PIXELS / 2).float().to(device)
        side = F.binary_cross_entropy_with_logits(self.grounded.side(states[image, place]).float(), sides)
        yield Loss("text", facts + 0.1 * ground + 0.3 * side, {"facts": facts, "background": ground, "side": side})

    def finish(self) -> dict[str, float]:
        """Measure the accuracy of an object's side on unseen captions of two objects. Write the weights.

        Raises:
            UsageError: `config.json` is invalid.
            RunError: a file cannot be written.
        """
        generator = torch.Generator().manual_seed(2**40 + self.config.seed)
        world = self.pictures.batch(4096, generator).truth
        world = world[(world.count == 2).nonzero().squeeze(1)]
        captions = [word(s, c) for s, c in zip(state(world, generator, complete=True), _picks(world), strict=True)]
        tokens = self.tokenizer(captions).to(self.config.device)
        n, rows = len(world), torch.arange(len(world))
        states = self.grounded.clip.text(tokens)[rows, tokens.argmax(1)]
        logits = self.grounded.where(states).float().cpu().view(n, len(_HALVES), -1)
        first, second = world.centre.unbind(1)
        horizontal = world.relation < 2
        low = torch.where(horizontal, first[:, 0] < second[:, 0], first[:, 1] < second[:, 1])
        half = torch.where(horizontal, 0, 2) + (~low).long()  # of the first object, along the axis of the relation
        right = []
        for offset, values in ((0, world.colour), (len(COLOURS), world.shape)):
            differ = values[:, 0] != values[:, 1]
            for k in range(2):
                here, there = half ^ k, half ^ k ^ 1
                index = offset + values[:, k]
                right.append((logits[rows, here, index] > logits[rows, there, index])[differ].float().mean())
        folder = Path(self.config.model)
        update(folder, text=self.text)
        save_part(folder / "clip.safetensors", self.grounded.clip, torch.bfloat16)
        return {"sides_right": float(torch.stack(right).mean())}


def _picks(world: Scenes) -> Tensor:
    return torch.randint(1 << 30, (len(world), 8), generator=torch.Generator().manual_seed(2**40))
