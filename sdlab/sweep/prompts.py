"""The named sets of prompts: captions of the scenes world, the same on every machine."""

from __future__ import annotations

import torch

from sdlab.scenes import Split, describe, sample

SETS: dict[str, Split] = {"scenes": "train", "scenes_heldout": "heldout"}
SIZE = 4096  # captions in a set
_SEED = 20_000  # far from the seeds that training draws from


def prompt_set(name: str, count: int) -> list[str]:
    """The first `count` captions of a set. A larger count only adds to a smaller one.

    `scenes` says nothing the model has not been trained on; every caption of `scenes_heldout` names a scene with a
    shape in a colour that training never showed together.

    Raises:
        KeyError: no such set.
        ValueError: `count` is not in 1 … 4096.
    """
    if not 1 <= count <= SIZE:
        raise ValueError(f"count should be from 1 to {SIZE}, got {count}")
    generator = torch.Generator().manual_seed(_SEED)
    return describe(sample(SIZE, generator, SETS[name]), generator)[:count]
