"""Scenes and their random generator.

A scene has a background and one or two objects. Each object has a shape, a colour and a size, and two objects have a
spatial relation. Everything else (position, rotation, hue, exact size, light) varies continuously and is never
captioned, so pictures with the same caption differ. A batch of scenes is a few tensors, without loops over pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdlab.worlds.base import Split

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "large")
BACKGROUNDS = ("white", "grey", "black", "brown", "navy")
RELATIONS = ("left of", "right of", "above", "below")

PIXELS = 64
SIZE = (PIXELS, PIXELS)
RADIUS = torch.tensor([[8.0, 9.5], [12.5, 14.0]])  # pixels, (small, large) × (min, max)


def held_out(shape: Tensor, colour: Tensor) -> Tensor:
    """Whether a (shape, colour) pair is held out of training: one colour per shape, and one shape per colour."""
    return (colour - shape) % len(COLOURS) == 3


@dataclass(frozen=True)
class Scenes:
    """A batch of B scenes. With one object, the second column of the object tensors is unused."""

    background: Tensor  # (B,) index into BACKGROUNDS
    count: Tensor  # (B,) 1 or 2
    shape: Tensor  # (B, 2) index into SHAPES
    colour: Tensor  # (B, 2) index into COLOURS
    size: Tensor  # (B, 2) index into SIZES
    relation: Tensor  # (B,) index into RELATIONS, of the first object to the second
    centre: Tensor  # (B, 2, 2) pixels, x to the right and y down
    radius: Tensor  # (B, 2) pixels
    rotation: Tensor  # (B, 2) radians
    hue: Tensor  # (B, 2) in [−1, 1], the position in the range of the colour
    tone: Tensor  # (B, 3) in [0, 1]: saturation and value of the objects, brightness of the background
    light: Tensor  # (B, 2) relative change of brightness from the centre to the right and lower edge

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, index: slice | Tensor) -> Scenes:
        return Scenes(**{name: value[index] for name, value in vars(self).items()})


def sample(n: int, generator: torch.Generator, split: Split = "train") -> Scenes:
    """n scenes, determined by `generator`.

    `split` "train" has no held-out (shape, colour) pair, "heldout" has one in every scene, and "all" is unrestricted.
    """

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    shape, colour, size = integers(len(SHAPES), n, 2), integers(len(COLOURS), n, 2), integers(len(SIZES), n, 2)
    if split == "train":
        # All seven other colours are equally likely.
        step = 1 + integers(len(COLOURS) - 1, n, 2)
        colour = torch.where(held_out(shape, colour), (colour + step) % len(COLOURS), colour)
    elif split == "heldout":
        colour[:, 0] = (shape[:, 0] + 3) % len(COLOURS)
    count = 1 + integers(3, n).clamp(max=1)  # two objects in two scenes of three
    relation = integers(len(RELATIONS), n)
    radius = RADIUS[size][..., 0] + uniform(n, 2) * (RADIUS[size][..., 1] - RADIUS[size][..., 0])
    centre = _place_pair(relation, radius, uniform(n, 4))
    margin = radius[:, :1] + 1.5
    alone = margin + uniform(n, 2) * (PIXELS - 2 * margin)
    centre[:, 0] = torch.where(count[:, None] == 1, alone, centre[:, 0])
    angle, strength = 2 * torch.pi * uniform(n), 0.14 * uniform(n)
    scenes = Scenes(
        background=integers(len(BACKGROUNDS), n),
        count=count,
        shape=shape,
        colour=colour,
        size=size,
        relation=relation,
        centre=centre,
        radius=radius,
        rotation=(2 * uniform(n, 2) - 1) * 0.3,
        hue=2 * uniform(n, 2) - 1,
        tone=uniform(n, 3),
        light=torch.stack([strength * angle.cos(), strength * angle.sin()], -1),
    )
    return _swap_where(scenes, integers(2, n) == 1) if split == "heldout" else scenes


def _place_pair(relation: Tensor, radius: Tensor, u: Tensor) -> Tensor:
    """The centres of two objects that do not touch and whose relation is unambiguous, (B, 2, 2)."""
    first_is_second = (relation % 2 == 1)[:, None]  # "right of" and "below": the first object has the larger coordinate
    low, high = torch.where(first_is_second, radius.flip(1), radius).unbind(1)
    gap = low + high + 2.0
    a = low + 1.5 + u[:, 0] * (PIXELS - low - high - 3.0 - gap).clamp(min=0)
    b = a + gap + u[:, 1] * (PIXELS - high - 1.5 - gap - a).clamp(min=0)
    across_a = low + 1.5 + u[:, 2] * (PIXELS - 2 * low - 3.0)
    lean = 0.6 * (2 * u[:, 3] - 1) * (b - a)  # at most 31° off the axis
    across_b = torch.minimum(torch.maximum(across_a + lean, high + 1.5), PIXELS - high - 1.5)
    along = torch.where(first_is_second, torch.stack([b, a], 1), torch.stack([a, b], 1))
    across = torch.where(first_is_second, torch.stack([across_b, across_a], 1), torch.stack([across_a, across_b], 1))
    vertical = (relation >= 2)[:, None, None]
    return torch.where(vertical, torch.stack([across, along], -1), torch.stack([along, across], -1))


def _swap_where(scenes: Scenes, swap: Tensor) -> Scenes:
    """The same scenes with their two objects swapped in the tensors where `swap` is true."""
    swap = swap & (scenes.count == 2)
    fields = dict(vars(scenes))
    for name in ("shape", "colour", "size", "radius", "rotation", "hue", "centre"):
        value = fields[name]
        fields[name] = torch.where(swap.view(-1, *[1] * (value.ndim - 1)), value.flip(1), value)
    fields["relation"] = torch.where(swap, scenes.relation ^ 1, scenes.relation)
    return Scenes(**fields)
