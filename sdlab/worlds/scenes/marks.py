"""Marks of what a scene shows and where, which encoders learn to predict."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.worlds.scenes.captions import Statement
from sdlab.worlds.scenes.world import COLOURS, PIXELS, SHAPES, SIZES, Scenes

HALVES = ("left", "right", "top", "bottom")
_KINDS = (len(COLOURS), len(SHAPES), len(SIZES))
MARKS = len(HALVES) * sum(_KINDS)


def marks(scenes: Scenes) -> Tensor:
    """Whether each half of a picture has an object's centre of each colour, shape and size, (B, 72), 0 or 1."""
    x, y = scenes.centre.unbind(-1)  # (B, 2)
    middle = PIXELS / 2
    there = torch.arange(2) < scenes.count[:, None]
    inside = torch.stack([x < middle, x >= middle, y < middle, y >= middle], 1) & there[:, None]  # (B, halves, objects)
    values = zip((scenes.colour, scenes.shape, scenes.size), _KINDS, strict=True)
    kinds = torch.cat([F.one_hot(value, n) for value, n in values], dim=-1)  # (B, objects, kinds)
    return (inside.float() @ kinds.float()).clamp(max=1).flatten(1)


def stated(statements: Sequence[Statement]) -> Tensor:
    """Which marks a statement covers: of colours, shapes or sizes, each if it is stated of all objects, (B, 72)."""
    covered = [
        [all(getattr(t, kind) is not None for t in s.things) for kind in ("colour", "shape", "size")]
        for s in statements
    ]
    return torch.tensor(covered).repeat_interleave(torch.tensor(_KINDS), dim=1).repeat(1, len(HALVES))
