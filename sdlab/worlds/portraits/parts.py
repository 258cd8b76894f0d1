"""The drawing parts of portraits, composed into masks on a 16 × 16 grid.

The layers of a part have one colour besides white and black, so a part maps the picture below it to
through · picture + own · colour + white. These three masks are composed once per variant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

GRID = 16  # cells per side
CELLS = GRID * GRID

# Variants that do not show clearly what their name says: mouths without an expression, hair of four cells, glasses
# without a frame, a beard of four cells.
_UNCLEAR = {
    "mouth": ("happy01", "happy02", "happy05", "sad04", "sad05", "sad06", "sad07"),
    "hair": ("short07", "short21", "short23"),
    "glasses": ("dark04", "light04"),
    "beard": ("variant04",),
}
_OPTIONAL = ("accessories", "glasses", "beard", "hat")
_LENSES = 0.65  # how dark sunglasses are; the drawings' 0.3 hardly differs from clear glasses at this size


@dataclass(frozen=True, eq=False)
class Part:
    """The V variants of one part. Variant 0 of an optional part is its absence."""

    role: str  # whose colour it is painted in
    names: tuple[str, ...]
    through: Tensor  # (V, 256) share of the picture below that remains
    own: Tensor  # (V, 256) share of the part's own colour
    white: Tensor  # (V, 256) share of white


def _mask(rows: list[str]) -> Tensor:
    """A layer's mask, (256,) of 0 and 1. Each row is 16 bits in hexadecimal, the most significant on the left."""
    return torch.tensor([(int(row, 16) >> (GRID - 1 - x)) & 1 for row in rows for x in range(GRID)]).float()


def _compose(part: str, name: str, layers: list[Mapping[str, object]]) -> tuple[Tensor, Tensor, Tensor]:
    through, own, white = torch.ones(CELLS), torch.zeros(CELLS), torch.zeros(CELLS)
    for layer in layers:
        colour, alpha, rows = layer["colour"], layer["alpha"], layer["rows"]
        assert isinstance(rows, list)
        assert isinstance(alpha, (int, float))
        if part == "beard" and colour == "white":
            continue  # a lightened beard vanishes on light skin
        if part == "glasses" and name.startswith("dark") and colour == "black":
            alpha = _LENSES
        cover = alpha * _mask(rows)
        through, own, white = (share * (1 - cover) for share in (through, own, white))
        white = white + cover if colour == "white" else white
        own = own if colour in ("white", "black") else own + cover
    return through, own, white


def _load() -> dict[str, Part]:
    """The parts in the order in which they are painted."""
    data = json.loads((Path(__file__).parent / "portraits.json").read_text(encoding="utf-8"))
    parts = {}
    for part in data["order"]:
        drawn = {name: layers for name, layers in data["parts"][part].items() if name not in _UNCLEAR.get(part, ())}
        variants = {"none": [], **drawn} if part in _OPTIONAL else drawn
        masks = [_compose(part, name, layers) for name, layers in variants.items()]
        (role,) = {layer["colour"] for layers in drawn.values() for layer in layers} - {"white", "black"}
        parts[part] = Part(role, tuple(variants), *(torch.stack(kind) for kind in zip(*masks, strict=True)))
    return parts


PARTS: Mapping[str, Part] = _load()
