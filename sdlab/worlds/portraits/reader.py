"""The reader of portraits, which checks a picture against a caption's statement.

The evaluator predicts every fact, with one more class for a fact that the picture does not show. It also predicts what
captions leave open (variants of the parts, skin, mirror image), so that the features of FID depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.worlds.base import Heads
from sdlab.worlds.portraits.captions import Statement
from sdlab.worlds.portraits.palette import ROLES
from sdlab.worlds.portraits.parts import PARTS
from sdlab.worlds.portraits.world import FACTS, Portraits, labels

_DRAWN = [part for part, drawn in PARTS.items() if len(drawn.names) > 1]
_OPEN = 0.3  # weight of what captions leave open
HEADS = Heads(
    {
        **{fact: len(values) + 1 for fact, values in FACTS.items()},
        **{f"{part}_variant": len(PARTS[part].names) for part in _DRAWN},
        "mirrored": 2,
        "rgb": 3 * len(ROLES),
    }
)


def losses(outputs: Mapping[str, Tensor], portraits: Portraits) -> dict[str, Tensor]:
    """Cross-entropies of the facts, and of what captions leave open with less weight; the squared error of colours."""
    found = {
        fact: F.cross_entropy(outputs[fact], value % (len(FACTS[fact]) + 1))  # −1 is the last class
        for fact, value in labels(portraits).items()
    }
    for part in _DRAWN:
        name = f"{part}_variant"
        found[name] = _OPEN * F.cross_entropy(outputs[name], portraits.variant(part))
    found["mirrored"] = _OPEN * F.cross_entropy(outputs["mirrored"], portraits.mirrored.long())
    found["rgb"] = _OPEN * F.mse_loss(outputs["rgb"], 2 * portraits.rgb.flatten(1) - 1)
    return found


def readings(outputs: Mapping[str, Tensor]) -> list[Statement]:
    """The most probable value of each fact, None where the picture does not show it."""
    found = torch.stack([outputs[fact].argmax(1) for fact in FACTS], 1).tolist()
    hidden = [len(values) for values in FACTS.values()]
    return [Statement(*(None if v == h else v for v, h in zip(row, hidden, strict=True))) for row in found]


def check(statement: Statement, reading: Statement) -> list[bool]:
    """Whether each stated fact was read in the picture."""
    return [getattr(reading, fact) == value for fact, value in vars(statement).items() if value is not None]
