"""The colours of portraits and their names.

Colours that can touch differ clearly, their variation included: a mouth from every skin and beard, a beard from every
skin, a frame from skin and eyes, hair, hat and top from every background.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_CLOTH = {
    "red": "d11f26", "yellow": "fccc1f", "green": "1f943d", "blue": "1f52cc",
    "purple": "80389e", "pink": "f273b3", "black": "1a1a1f", "white": "f7f7f7",
}  # fmt: skip
_COLOURS: Mapping[str, Mapping[str, str]] = {
    "hair": {
        "black": "141416", "brown": "4d260f", "red": "d12e1a", "blond": "fad147",
        "grey": "85878f", "blue": "3861d9", "green": "409947", "pink": "f273b3",
    },
    "clothing": _CLOTH,
    "hat": _CLOTH,
    "glasses": {"black": "141419", "red": "cc1424", "blue": "1a47cc", "green": "148047", "purple": "8033a6"},
    "background": {
        "light blue": "99d1f7", "light green": "9ee09e", "light purple": "c2adf2",
        "light yellow": "fced9e", "light pink": "fcbfcc", "light grey": "c2c2c7",
    },
    "eyes": {"blue": "40598c", "green": "40734d", "brown": "59381f", "grey": "66666e"},
    "mouth": {"dark red": "8c081a", "rose": "f25973"},
    "accessories": {"gold": "fabf0d"},
}  # fmt: skip
_SKIN = ("ffdbac", "f5cfa0", "eac393", "e0b687", "cb9e6e", "b68655", "a26d3d", "8d5524")


def _rgb(*colours: str) -> Tensor:
    return torch.tensor([list(bytes.fromhex(colour)) for colour in colours]) / 255


NAMES: Mapping[str, tuple[str, ...]] = {role: tuple(colours) for role, colours in _COLOURS.items()}
PALETTE: Mapping[str, Tensor] = {role: _rgb(*colours.values()) for role, colours in _COLOURS.items()}
"""The colours of each role but the skin, (colours, 3) in [0, 1]."""

ROLES = (*PALETTE, "skin")
VARIATION = 0.03  # the largest change of a channel


def skin(tone: Tensor) -> Tensor:
    """Skin colours (B, 3) from light to dark at tones (B,) in [0, 1]."""
    ramp = _rgb(*_SKIN)
    place = tone * (len(ramp) - 1)
    below = place.long().clamp(max=len(ramp) - 2)
    return torch.lerp(ramp[below], ramp[below + 1], (place - below)[:, None])
