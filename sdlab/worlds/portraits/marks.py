"""Marks of what a portrait shows, which encoders learn to predict."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.worlds.portraits.captions import Statement
from sdlab.worlds.portraits.world import FACTS, Portraits, labels

MARKS = sum(map(len, FACTS.values()))


def marks(portraits: Portraits) -> Tensor:
    """Whether each fact has each of its values, (B, MARKS), 0 or 1; none if the picture does not show it."""
    values = labels(portraits)
    return torch.cat([F.one_hot(values[fact] + 1, len(FACTS[fact]) + 1)[:, 1:] for fact in FACTS], 1).float()


def stated(statements: Sequence[Statement]) -> Tensor:
    """Which marks a statement covers: those of its facts, (B, MARKS)."""
    covered = torch.tensor([[getattr(s, fact) is not None for fact in FACTS] for s in statements])
    return covered.repeat_interleave(torch.tensor([len(values) for values in FACTS.values()]), dim=1)
