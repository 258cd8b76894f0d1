"""Whether image-to-image changed what the prompt asked it to change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdlab.worlds.scenes import Statement
from sdlab.worlds.scenes.reader import Reading, check


def changes_made(statements: Sequence[Statement], before: Sequence[Reading], after: Sequence[Reading]) -> Tensor:
    """The share of each caption's facts that do not hold before and do after, (B,) in [0, 1]; 1 where all held."""
    shares = []
    for statement, old, new in zip(statements, before, after, strict=True):
        now = [holds for holds, held in zip(check(statement, new), check(statement, old), strict=True) if not held]
        shares.append(sum(now) / len(now) if now else 1.0)
    return torch.tensor(shares)
