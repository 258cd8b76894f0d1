"""Marks of what a portrait shows, which encoders learn to predict."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.worlds.portraits.world import FACTS, Portraits, labels

MARKS = sum(map(len, FACTS.values()))


def marks(portraits: Portraits) -> Tensor:
    """Whether each fact has each of its values, (B, MARKS), 0 or 1; none if the picture does not show it."""
    values = labels(portraits)
    return torch.cat([F.one_hot(values[fact] + 1, len(FACTS[fact]) + 1)[:, 1:] for fact in FACTS], 1).float()
