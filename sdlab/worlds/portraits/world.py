"""Portraits and their random generator.

A portrait is a person in pixel art: hair, mouth, top, background, and perhaps glasses, a hat, a beard and earrings.
Captions name these and their colours. The variant of each part, the eyes, the skin tone, small variations of every
colour and the mirror image are never captioned, so pictures with the same caption differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdlab.worlds.base import Split
from sdlab.worlds.portraits.palette import NAMES, PALETTE, ROLES, VARIATION, skin
from sdlab.worlds.portraits.parts import GRID, PARTS

SIZE = (64, 64)

HAIR_LENGTHS = ("short", "long")
MOUTHS = ("smiling", "sad")
GLASSES = ("none", "glasses", "sunglasses")
FACTS: dict[str, tuple[str, ...]] = {
    "hair_length": HAIR_LENGTHS,
    "hair_colour": NAMES["hair"],
    "mouth": MOUTHS,
    "glasses": GLASSES,
    "glasses_colour": NAMES["glasses"],
    "hat": ("none", "hat"),
    "hat_colour": NAMES["hat"],
    "beard": ("none", "beard"),
    "earrings": ("none", "earrings"),
    "top": NAMES["clothing"],
    "background": NAMES["background"],
}
"""What captions can state, with the possible values."""

_BELOW_EARS = 8  # long hair has cells in this row or further down
_FEWEST_LONG = 4  # cells there
_WITH = {"accessories": 0.45, "beard": 0.35, "hat": 0.4}  # the probabilities of the optional parts


def _kinds() -> dict[str, Tensor]:
    """The kind of each variant of the parts whose kind is a fact, (V,)."""
    below = PARTS["hair"].own.view(-1, GRID, GRID)[:, _BELOW_EARS:].sum((1, 2))
    names = {part: [name.rstrip("0123456789") for name in PARTS[part].names] for part in PARTS}
    return {
        "hair": (below >= _FEWEST_LONG).long(),
        "mouth": torch.tensor([("happy", "sad").index(name) for name in names["mouth"]]),
        "glasses": torch.tensor([("none", "light", "dark").index(name) for name in names["glasses"]]),
        **{part: torch.tensor([int(name != "none") for name in names[part]]) for part in _WITH},
    }


KINDS = _kinds()
_KIND_SHARES = {"hair": (0.5,), "mouth": (0.5,), "glasses": (0.4, 0.7), **{p: (1 - s,) for p, s in _WITH.items()}}
"""Where [0, 1] is cut into the shares of the kinds."""

_VARIANTS = {
    part: [(KINDS[part] == kind).nonzero().squeeze(1) for kind in range(len(shares) + 1)]
    for part, shares in _KIND_SHARES.items()
}
_COLUMNS = len(_KIND_SHARES) + len(PARTS) + len(PALETTE) + 4 + 3 * len(ROLES)  # random numbers of one portrait

_LIKE_HAIR = torch.tensor(  # the hat in the colour of the hair, −1 if there is none
    [(*NAMES["hat"], "").index({"blond": "yellow"}.get(c, c if c in NAMES["hat"] else "")) for c in NAMES["hair"]]
)


def _cells_left(part: str, above: str) -> Tensor:
    """How many cells of each variant of a part another part leaves visible, (V, W)."""
    return (PARTS[part].own[:, None] * PARTS[above].through[None] >= 0.5).sum(-1)


_HAIR_LEFT = _cells_left("hair", "hat")
_EARRINGS_LEFT = _cells_left("accessories", "hair")
_HAIR_SHOWN = _HAIR_LEFT >= 6
_EARRINGS_SHOWN = _EARRINGS_LEFT >= 2
_EARS_SHOWN = _EARRINGS_SHOWN[1:].all(0)  # any earrings would be visible, so their absence is visible too


def held_out(hair_colour: Tensor, top: Tensor) -> Tensor:
    """Whether a (hair colour, top colour) pair is held out of training: one top for each hair colour."""
    return (top - hair_colour) % len(NAMES["clothing"]) == 3


@dataclass(frozen=True)
class Portraits:
    """A batch of B portraits."""

    variants: Tensor  # (B, 9) index of each part's variant, in the order of PARTS
    colours: Tensor  # (B, 8) index into the palette of each of ROLES but the skin; unused where the part is absent
    rgb: Tensor  # (B, 9, 3) in [0, 1], the exact colour of each of ROLES
    mirrored: Tensor  # (B,) bool

    def __len__(self) -> int:
        return len(self.mirrored)

    def __getitem__(self, index: slice | Tensor) -> Portraits:
        return Portraits(**{name: value[index] for name, value in vars(self).items()})

    def variant(self, part: str) -> Tensor:
        """The variant of a part, (B,)."""
        return self.variants[:, list(PARTS).index(part)]

    def colour(self, role: str) -> Tensor:
        """The colour of a role, (B,)."""
        return self.colours[:, ROLES.index(role)]


def sample(n: int, generator: torch.Generator, split: Split = "train") -> Portraits:
    """n portraits, determined by `generator`. A larger n only adds to a smaller one.

    `split` "train" has no held-out (hair colour, top colour) pair, "heldout" has one in every portrait, with hair that
    can be seen, and "all" is unrestricted.
    """
    # All randomness of a portrait is in one row, so that it does not depend on the size of the batch.
    columns = iter(torch.rand(n, _COLUMNS, generator=generator).unbind(1))
    variants = {part: _variant(part, columns) for part in PARTS}
    colours = {role: (next(columns) * len(PALETTE[role])).long() for role in PALETTE}
    tops = len(NAMES["clothing"])
    hair, top, hat = colours["hair"], colours["clothing"], colours["hat"]
    step = 1 + (next(columns) * (tops - 1)).long()
    if split == "train":  # all seven other tops are equally likely
        top = torch.where(held_out(hair, top), (top + step) % tops, top)
    elif split == "heldout":
        top = (hair + 3) % tops
        variants["hat"] = torch.where(_HAIR_SHOWN[variants["hair"], variants["hat"]], variants["hat"], 0)
    # A hat in the colour of the hair could not be distinguished from it.
    step = 1 + (next(columns) * (len(NAMES["hat"]) - 1)).long()
    hat = torch.where(hat == _LIKE_HAIR[hair], (hat + step) % len(NAMES["hat"]), hat)
    colours |= {"clothing": top, "hat": hat}
    tone, mirrored = next(columns), next(columns) < 0.5
    vary = torch.stack(list(columns), 1).view(n, len(ROLES), 3)
    rgb = torch.stack([*(PALETTE[role][index] for role, index in colours.items()), skin(tone)], 1)
    rgb = (rgb + (2 * vary - 1) * VARIATION).clamp(0, 1)
    return Portraits(torch.stack(list(variants.values()), 1), torch.stack(list(colours.values()), 1), rgb, mirrored)


def _variant(part: str, columns: Iterator[Tensor]) -> Tensor:
    """A random variant (B,): the kind first, where the part has kinds, and then one of that kind."""
    if part not in _KIND_SHARES:
        return (next(columns) * len(PARTS[part].names)).long()
    kind = torch.bucketize(next(columns).contiguous(), torch.tensor(_KIND_SHARES[part]), right=True)
    u = next(columns)
    options = torch.stack([of_kind[(u * len(of_kind)).long()] for of_kind in _VARIANTS[part]])
    return options.gather(0, kind[None]).squeeze(0)


def labels(portraits: Portraits) -> dict[str, Tensor]:
    """The value of each of FACTS, (B,), or −1 where the picture does not show it.

    Not shown are hair under a hat, ears under hair, and the colours of absent glasses and hats.
    """
    kind = {part: kinds[portraits.variant(part)] for part, kinds in KINDS.items()}
    hair, earrings = portraits.variant("hair"), portraits.variant("accessories")
    hair_shown = _HAIR_SHOWN[hair, portraits.variant("hat")]
    ears_shown = torch.where(earrings > 0, _EARRINGS_SHOWN[earrings, hair], _EARS_SHOWN[hair])
    return {
        "hair_length": kind["hair"].where(hair_shown, -1),
        "hair_colour": portraits.colour("hair").where(hair_shown, -1),
        "mouth": kind["mouth"],
        "glasses": kind["glasses"],
        "glasses_colour": portraits.colour("glasses").where(kind["glasses"] > 0, -1),
        "hat": kind["hat"],
        "hat_colour": portraits.colour("hat").where(kind["hat"] > 0, -1),
        "beard": kind["beard"],
        "earrings": kind["accessories"].where(ears_shown, -1),
        "top": portraits.colour("clothing"),
        "background": portraits.colour("background"),
    }
