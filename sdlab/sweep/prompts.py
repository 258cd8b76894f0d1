"""The named sets of prompts and of pictures of the scenes world, the same on every machine.

Picture i of a set shows what prompt i of the set of that name says. Prompt i of `scenes_altered` differs from picture
i of `scenes` in one fact, which image-to-image is asked to change.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdlab.worlds.scenes import Scenes, Split, Statement, describe, parse, render, sample
from sdlab.worlds.scenes.captions import alter, word
from sdlab.worlds.scenes.world import held_out

SETS: dict[str, Split] = {"scenes": "train", "scenes_heldout": "heldout"}
ALTERED = "scenes_altered"
PROMPT_SETS = (*SETS, ALTERED)
SIZE = 4096  # captions in a set
_SEED = 20_000  # far from the seeds that training draws from


def prompt_set(name: str, count: int) -> list[str]:
    """The first `count` captions of a set. A larger count only adds to a smaller one.

    `scenes` says nothing the model has not been trained on, nor does `scenes_altered`; every caption of
    `scenes_heldout` names a scene with a shape in a colour that training never showed together.

    Raises:
        KeyError: no such set.
        ValueError: `count` is not in 1 … 4096.
    """
    if name == ALTERED:
        return [_altered(caption, i) for i, caption in enumerate(prompt_set("scenes", count))]
    world, generator = _world(name, count)
    return describe(world, generator)[:count]


def picture_set(name: str, count: int) -> Tensor:
    """The first `count` pictures of a set, (count, 3, 64, 64) in [−1, 1]. Raises as `prompt_set` does."""
    return render(_world(name, count)[0][:count])


def _world(name: str, count: int) -> tuple[Scenes, torch.Generator]:
    if not 1 <= count <= SIZE:
        raise ValueError(f"count should be from 1 to {SIZE}, got {count}")
    generator = torch.Generator().manual_seed(_SEED)
    return sample(SIZE, generator, SETS[name]), generator


def _altered(caption: str, i: int) -> str:
    """The caption with one fact exchanged for another, both within what training shows."""
    generator = torch.Generator().manual_seed(_SEED + 1 + i)
    statement = parse(caption)
    assert statement is not None
    other = statement
    while other == statement or not _trained(other):
        other = alter(statement, torch.randint(1 << 30, (2,), generator=generator))
    return word(other, torch.randint(1 << 30, (8,), generator=generator))


def _trained(statement: Statement) -> bool:
    pairs = [(thing.shape, thing.colour) for thing in statement.things]
    return not any(
        shape is not None and colour is not None and held_out(torch.tensor(shape), torch.tensor(colour))
        for shape, colour in pairs
    )
