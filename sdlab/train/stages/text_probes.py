"""Linear probes on a text encoder: the losses of the text stage, and what it measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlab.model.tokenizer import Tokenizer
from sdlab.train.world_pictures import WorldPictures
from sdlab.worlds import scenes
from sdlab.worlds.registry import AnyWorld
from sdlab.worlds.scenes import Scenes
from sdlab.worlds.scenes.captions import NOUNS
from sdlab.worlds.scenes.marks import HALVES
from sdlab.worlds.scenes.world import BACKGROUNDS, COLOURS, PIXELS

_UNSEEN = 4096  # captions that are measured


class Encoded(NamedTuple):
    """Captions and what the text encoder makes of them."""

    tokens: Tensor  # (B, L), on the CPU
    states: Tensor  # (B, L, W)
    summary: Tensor  # (B, W), the state of one token from the end token on
    statements: Sequence[Any]  # what the captions state, B of the world's statements


class Probes(nn.Module):
    """Probes for the world's marks on the state behind a caption.

    Only stated marks count. A caption that leaves the shape out would otherwise teach which shapes a colour never has
    in training, and the encoder would doubt such a pair when a caption states it.
    """

    def __init__(self, width: int, world: AnyWorld, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.where = nn.Linear(width, world.MARKS)
        self.world = world

    def losses(self, captions: Encoded, truth: Any) -> dict[str, tuple[float, Tensor]]:
        """The weight of each loss, and the loss."""
        marks, stated = (
            x.to(captions.summary.device) for x in (self.world.marks(truth), self.world.stated(captions.statements))
        )
        logits = self.where(captions.summary).float()
        error = F.binary_cross_entropy_with_logits(logits, marks, reduction="none")
        return {"facts": (1.0, _mean(error, stated))}

    def measure(
        self, encode: Callable[[list[str]], Tensor], pictures: WorldPictures[Any], generator: torch.Generator
    ) -> dict[str, float]:
        """Measure the share of unseen complete captions whose marks are all predicted. `encode` returns end states."""
        truth = pictures.batch(_UNSEEN, generator).truth
        logits = self.where(encode(self.world.describe(truth, generator, complete=True))).float().cpu()
        return {"captions_right": float(((logits > 0) == self.world.marks(truth).bool()).all(1).float().mean())}


class SceneProbes(Probes):
    """Probes for objects in halves, for the background, and for the position of each object on its noun.

    The end token encodes the whole scene, and each token after it one half: left, right, top, bottom and so on. All
    halves share one probe, so an object is encoded in the same way wherever it is, and cross-attention can find it by
    its place.

    Raises:
        ValueError: a noun is more than one token of the vocabulary.
    """

    def __init__(self, width: int, world: AnyWorld, tokenizer: Tokenizer) -> None:
        super().__init__(width, world, tokenizer)
        self.in_half = nn.Linear(width, world.MARKS // len(HALVES))
        self.background = nn.Linear(width, len(BACKGROUNDS))
        self.side = nn.Linear(width, 2)
        tokens = tokenizer(NOUNS)
        if split := [noun for noun, row in zip(NOUNS, tokens, strict=True) if row[2] != tokenizer.end]:
            raise ValueError(
                f"the vocabulary is too small: {split[0]!r} must be one token; delete it and give a larger "
                "text.vocab_size in config.json"
            )
        self.nouns = tokens[:, 1]

    def losses(self, captions: Encoded, truth: Scenes) -> dict[str, tuple[float, Tensor]]:
        """The weight of each loss, and the loss."""
        ends = captions.tokens.argmax(1)
        whole = captions._replace(summary=captions.states[torch.arange(len(ends)), ends])
        return {
            **super().losses(whole, truth),
            "half": (1.0, self._half(captions, truth, ends)),
            "background": (0.1, self._background(captions, truth)),
            "side": (0.3, self._side(captions, truth)),
        }

    def _half(self, captions: Encoded, truth: Scenes, ends: Tensor) -> Tensor:
        """The loss of the marks of one half at each token after the end token."""
        after = torch.arange(captions.tokens.shape[1]) - ends[:, None] - 1  # (B, L)
        row, place = (after >= 0).nonzero(as_tuple=True)
        marks, stated = (
            x.unflatten(1, (len(HALVES), -1))[row, after[row, place] % len(HALVES)].to(captions.states.device)
            for x in (self.world.marks(truth), self.world.stated(captions.statements))
        )
        logits = self.in_half(captions.states[row, place]).float()
        return _mean(F.binary_cross_entropy_with_logits(logits, marks, reduction="none"), stated)

    def _background(self, captions: Encoded, truth: Scenes) -> Tensor:
        logits = self.background(captions.summary).float()
        error = F.cross_entropy(logits, truth.background.to(logits.device), reduction="none")
        stated = torch.tensor([statement.background is not None for statement in captions.statements])
        return _mean(error, stated.to(logits.device))

    def _side(self, captions: Encoded, truth: Scenes) -> Tensor:
        """The loss of an object's position on its noun.

        That of the first object is unknown to a causal transformer at its noun. For the second it depends on one fact,
        the relation. The rest is learnt from this step.
        """
        image, place = torch.isin(captions.tokens, self.nouns).nonzero(as_tuple=True)  # in the order of the objects
        thing = (image[1:] == image[:-1]).long()
        thing = torch.cat([thing.new_zeros(1), thing])
        logits = self.side(captions.states[image, place]).float()
        sides = (truth.centre[image, thing] >= PIXELS / 2).float()
        return F.binary_cross_entropy_with_logits(logits, sides.to(logits.device))

    def measure(
        self, encode: Callable[[list[str]], Tensor], pictures: WorldPictures[Any], generator: torch.Generator
    ) -> dict[str, float]:
        """Measure the accuracy of an object's side on unseen complete captions of two objects."""
        truth: Scenes = pictures.batch(_UNSEEN, generator).truth
        truth = truth[(truth.count == 2).nonzero().squeeze(1)]
        statements = scenes.state(truth, generator, complete=True)
        choices = torch.randint(1 << 30, (len(truth), 8), generator=torch.Generator().manual_seed(0))
        states = encode([scenes.word(s, c) for s, c in zip(statements, choices, strict=True)])
        n, rows = len(truth), torch.arange(len(truth))
        logits = self.where(states).float().cpu().view(n, 4, -1)
        first, second = truth.centre.unbind(1)
        horizontal = truth.relation < 2
        low = torch.where(horizontal, first[:, 0] < second[:, 0], first[:, 1] < second[:, 1])
        half = torch.where(horizontal, 0, 2) + (~low).long()  # of the first object, along the axis of the relation
        right = []
        for offset, values in ((0, truth.colour), (len(COLOURS), truth.shape)):
            differ = values[:, 0] != values[:, 1]
            for k in range(2):
                here, there = half ^ k, half ^ k ^ 1
                index = offset + values[:, k]
                right.append((logits[rows, here, index] > logits[rows, there, index])[differ].float().mean())
        return {"sides_right": float(torch.stack(right).mean())}


def _mean(error: Tensor, chosen: Tensor) -> Tensor:
    """The mean of some errors, 0 of none."""
    return (error * chosen).sum() / chosen.sum().clamp(min=1)


PROBES: Mapping[str, type[Probes]] = {"scenes": SceneProbes}
"""The probes of worlds that have more than marks."""
