"""The reader of scenes, which checks a picture against a caption's statement.

The evaluator predicts a heat map of object centres (Zhou et al. 2019, arXiv:1904.07850) with shape, colour and size at
each centre, and the background of the whole picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

import torch.nn.functional as F
from torch import Tensor

from sdlab.worlds.base import Heads
from sdlab.worlds.evaluator import STRIDE
from sdlab.worlds.scenes.captions import Statement, Thing
from sdlab.worlds.scenes.world import BACKGROUNDS, COLOURS, PIXELS, SHAPES, SIZES

CELLS = PIXELS // STRIDE
HEADS = Heads(
    cells={"heat": 1, "shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES), "offset": 2, "fine": 4},
    picture={"background": len(BACKGROUNDS), "pairs": len(SHAPES) * len(COLOURS), "light": 2, "tone": 3, "where": 4},
)


@dataclass(frozen=True)
class Seen:
    """An object that the reader found, with its centre in pixels."""

    thing: Thing
    x: float
    y: float


@dataclass(frozen=True)
class Reading:
    """The objects and background that the reader found in one picture."""

    objects: tuple[Seen, ...]
    background: int


def readings(outputs: Mapping[str, Tensor]) -> list[Reading]:
    """The objects in the evaluator's outputs whose centre has a probability above ½, at most four per picture."""
    heads = {name: value.float().cpu() for name, value in outputs.items()}
    heat = heads["heat"].sigmoid().squeeze(1)
    # A centre is the maximum of its 5 × 5 cells. The centres of two objects are at least 16 pixels apart.
    peak = (heat == F.max_pool2d(heat.unsqueeze(1), 5, stride=1, padding=2).squeeze(1)) & (heat > 0.5)
    score, place = (heat * peak).flatten(1).topk(4, dim=1)
    row, column = place // CELLS, place % CELLS

    def at(name: str) -> Tensor:  # (B, 4, k)
        values = heads[name].flatten(2)
        return values.gather(2, place.unsqueeze(1).expand(-1, values.shape[1], -1)).transpose(1, 2)

    offset = at("offset")
    x, y = (column + 0.5 + offset[..., 0]) * STRIDE, (row + 0.5 + offset[..., 1]) * STRIDE
    columns = (score, at("shape").argmax(-1), at("colour").argmax(-1), at("size").argmax(-1), x, y)
    found = []
    for background, *rows in zip(heads["background"].argmax(1).tolist(), *(c.tolist() for c in columns), strict=True):
        seen = zip(*rows, strict=True)
        objects = tuple(Seen(Thing(*map(int, kind)), px, py) for s, *kind, px, py in seen if s > 0.5)
        found.append(Reading(objects, background))
    return found


def check(statement: Statement, reading: Reading) -> list[bool]:
    """Whether each stated fact is true: the number of objects, the attributes of each, the relation, the background.

    Objects are matched to the caption's objects in the order that makes the most facts true.
    """
    best: list[bool] = []
    seen: list[Seen | None] = [*reading.objects, *[None] * len(statement.things)]
    for chosen in permutations(seen, len(statement.things)):
        facts = [len(reading.objects) == len(statement.things)]
        for thing, found in zip(statement.things, chosen, strict=True):
            for name in ("size", "colour", "shape"):
                stated = getattr(thing, name)
                if stated is not None:
                    facts.append(found is not None and getattr(found.thing, name) == stated)
        if statement.relation is not None:
            facts.append(_related(statement.relation, chosen[0], chosen[1]))
        if sum(facts) > sum(best) or not best:
            best = facts
    return best + ([] if statement.background is None else [reading.background == statement.background])


def _related(relation: int, first: Seen | None, second: Seen | None) -> bool:
    if first is None or second is None:
        return False
    dx, dy = second.x - first.x, second.y - first.y
    along, across = (dx, dy) if relation < 2 else (dy, dx)
    return abs(along) > abs(across) and (along > 0) == (relation % 2 == 0)
