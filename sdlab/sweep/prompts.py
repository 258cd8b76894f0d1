"""Prompts from files, and the named sets of prompts and pictures of each world. A set is the same on every machine.

Picture i of a set shows what prompt i of the same set says. Prompt i of an altered set differs in one fact from
picture i of the unaltered set. Image-to-image should change that fact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdlab.system.errors import UsageError
from sdlab.system.reading import read_text
from sdlab.worlds.base import Split
from sdlab.worlds.registry import WORLDS, AnyWorld, open_world

SETS: dict[str, tuple[str, Split]] = {
    **{world: (world, "train") for world in WORLDS},
    **{f"{world}_heldout": (world, "heldout") for world in WORLDS},
}
"""The world and the split of each set of pictures."""
_ALTERED = {f"{world}_altered": world for world in WORLDS}
PROMPT_SETS = (*SETS, *_ALTERED)
SIZE = 4096  # captions in a set
_SEED = 20_000  # far from the seeds of training


def prompt_set(name: str, count: int) -> list[str]:
    """The first `count` captions of a set. A larger count only adds to a smaller one.

    Captions of `scenes` and `scenes_altered` have only combinations from training. Every caption of `scenes_heldout`
    has a combination that was held out of training. The sets of other worlds follow the same rule.

    Raises:
        KeyError: there is no such set.
        ValueError: `count` is not in 1 … 4096.
    """
    if name in _ALTERED:
        world = open_world(_ALTERED[name])
        return [_altered(world, caption, i) for i, caption in enumerate(prompt_set(_ALTERED[name], count))]
    world, truth, generator = _drawn(name, count)
    return world.describe(truth, generator)[:count]


def prompts_in(path: Path) -> list[str]:
    """The prompts in a text file, one per line. Blank lines are skipped.

    Raises:
        UsageError: the file cannot be read, is not UTF-8 text, or has no prompts.
    """
    lines = [line.strip() for line in read_text(path).split("\n")]
    if not any(lines):
        raise UsageError(f"{path}: contains no prompts; write one per line")
    return [line for line in lines if line]


def picture_set(name: str, count: int) -> Tensor:
    """The first `count` pictures of a set, (count, 3, H, W) in [−1, 1].

    Raises:
        KeyError: there is no such set.
        ValueError: `count` is not in 1 … 4096.
    """
    world, truth, _ = _drawn(name, count)
    return world.render(truth[:count])


def picture_size(name: str) -> tuple[int, int]:
    """(height, width) of the pictures of a set.

    Raises:
        KeyError: there is no such set.
    """
    return open_world(SETS[name][0]).SIZE


def _drawn(name: str, count: int) -> tuple[AnyWorld, Any, torch.Generator]:
    """The world, the ground truth of the whole set, and the generator for the wording of its captions."""
    if not 1 <= count <= SIZE:
        raise ValueError(f"count should be from 1 to {SIZE}, got {count}")
    generator = torch.Generator().manual_seed(_SEED)
    place, split = SETS[name]
    world = open_world(place)
    return world, world.sample(SIZE, generator, split), generator


def _altered(world: AnyWorld, caption: str, i: int) -> str:
    """The caption with one fact changed. Neither the old nor the new one states a held-out combination."""
    generator = torch.Generator().manual_seed(_SEED + 1 + i)
    statement = world.parse(caption)
    assert statement is not None
    other = statement
    while other == statement or not world.trained(other):
        other = world.alter(statement, torch.randint(1 << 30, (2,), generator=generator))
    return world.word(other, torch.randint(1 << 30, (world.CHOICES,), generator=generator))
