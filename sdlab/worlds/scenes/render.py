"""The renderer of scenes: anti-aliased by signed distance and vectorised over the batch.

Each shape is a signed distance in units of its radius, negative inside, with y up. The coverage of a pixel is
clamp(½ − distance in pixels, 0, 1), which is exact to first order along an edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sdlab.worlds.scenes.world import PIXELS, SHAPES, Scenes

Distance = Callable[[Tensor, Tensor], Tensor]

# hue in turns, half its range, saturation (min, max), value (min, max)
_COLOURS = torch.tensor(
    [
        [0.995, 0.012, 0.80, 0.95, 0.80, 0.95],  # red
        [0.080, 0.010, 0.85, 1.00, 0.92, 1.00],  # orange
        [0.155, 0.012, 0.80, 0.95, 0.90, 1.00],  # yellow
        [0.335, 0.025, 0.75, 0.95, 0.55, 0.75],  # green
        [0.500, 0.015, 0.65, 0.90, 0.85, 1.00],  # cyan
        [0.615, 0.015, 0.75, 0.92, 0.85, 1.00],  # blue
        [0.775, 0.015, 0.65, 0.85, 0.65, 0.82],  # purple
        [0.925, 0.015, 0.40, 0.55, 0.95, 1.00],  # pink
    ]
)
# RGB at the darkest and the brightest
_BACKGROUNDS = torch.tensor(
    [
        [[0.86, 0.86, 0.86], [0.97, 0.97, 0.97]],  # white
        [[0.45, 0.45, 0.45], [0.58, 0.58, 0.58]],  # grey
        [[0.03, 0.03, 0.03], [0.11, 0.11, 0.11]],  # black
        [[0.31, 0.19, 0.10], [0.41, 0.26, 0.15]],  # brown
        [[0.06, 0.09, 0.27], [0.11, 0.15, 0.37]],  # navy
    ]
)


def render(scenes: Scenes) -> Tensor:
    """Pictures of the scenes, (B, 3, 64, 64) float32 in [−1, 1]."""
    pixel = torch.arange(PIXELS, dtype=torch.float32) + 0.5
    brightness = _BACKGROUNDS[scenes.background]  # (B, 2, 3)
    canvas = torch.lerp(brightness[:, 0], brightness[:, 1], scenes.tone[:, 2:]).view(-1, 3, 1, 1)
    canvas = canvas.repeat(1, 1, PIXELS, PIXELS)
    for k in (1, 0):  # objects do not overlap, so the order does not matter
        there = (scenes.count > k).float()
        dx = (pixel.view(1, 1, -1) - scenes.centre[:, k, 0].view(-1, 1, 1)) / scenes.radius[:, k].view(-1, 1, 1)
        dy = (pixel.view(1, -1, 1) - scenes.centre[:, k, 1].view(-1, 1, 1)) / scenes.radius[:, k].view(-1, 1, 1)
        cos, sin = scenes.rotation[:, k].cos().view(-1, 1, 1), scenes.rotation[:, k].sin().view(-1, 1, 1)
        x, y = dx * cos + dy * sin, dx * sin - dy * cos
        distance = torch.empty_like(x)
        for index, name in enumerate(SHAPES):
            chosen = (scenes.shape[:, k] == index).nonzero().squeeze(1)
            distance[chosen] = _DISTANCE[name](x[chosen], y[chosen])
        cover = (0.5 - distance * scenes.radius[:, k].view(-1, 1, 1)).clamp(0, 1) * there.view(-1, 1, 1)
        colour = _rgb(scenes.colour[:, k], scenes.hue[:, k], scenes.tone).view(-1, 3, 1, 1)
        canvas = canvas + cover.unsqueeze(1) * (colour - canvas)
    across = (pixel / PIXELS * 2 - 1).view(1, 1, -1)
    light = 1 + scenes.light[:, 0].view(-1, 1, 1) * across + scenes.light[:, 1].view(-1, 1, 1) * across.transpose(1, 2)
    return (canvas * light.unsqueeze(1)).clamp(0, 1) * 2 - 1


def _rgb(colour: Tensor, where: Tensor, tone: Tensor) -> Tensor:
    """RGB (B, 3) in [0, 1], from hue, saturation and value."""
    hue0, spread, s0, s1, v0, v1 = _COLOURS[colour].unbind(1)
    hue, saturation, value = hue0 + spread * where, torch.lerp(s0, s1, tone[:, 0]), torch.lerp(v0, v1, tone[:, 1])
    wheel = torch.stack([hue, hue + 2 / 3, hue + 1 / 3], 1) % 1.0
    pure = ((wheel * 6 - 3).abs() - 1).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * (1 - pure))


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    dx, dy = x.abs() - half_width, y.abs() - half_height
    return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0)


def _disc(x: Tensor, y: Tensor, radius: float) -> Tensor:
    return torch.hypot(x, y) - radius


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    slanted = x.abs() * math.cos(math.pi / 6) + y * math.sin(math.pi / 6)
    return torch.maximum(slanted, -y) - 0.56


def _star(x: Tensor, y: Tensor, tip: float = 1.12, notch: float = 0.47) -> Tensor:
    """A five-pointed star. The plane is folded into the tenth next to a tip, where the star has one straight edge."""
    tenth = math.pi / 5
    angle = torch.atan2(x, y) % (2 * tenth)
    angle = torch.minimum(angle, 2 * tenth - angle)
    radius = torch.hypot(x, y)
    along, off = radius * angle.cos(), radius * angle.sin()
    edge_x, edge_y = notch * math.cos(tenth) - tip, notch * math.sin(tenth)
    length = math.hypot(edge_x, edge_y)
    return ((along - tip) * edge_y - off * edge_x) / length


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.95, 0.32), _box(x, y, 0.32, 0.95))


def _heart(x: Tensor, y: Tensor, h: float = 0.54) -> Tensor:
    """A square standing on a corner, with a disc on each upper edge."""
    y = y + 0.06
    u, v = (x + y) / math.sqrt(2), (y - x) / math.sqrt(2)
    return torch.minimum(_box(u, v, h, h), torch.minimum(_disc(u - h, v, h), _disc(u, v - h, h)))


def _moon(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(_disc(x, y, 0.95), -_disc(x - 0.48, y - 0.1, 0.74))


_DISTANCE: dict[str, Distance] = {
    "circle": lambda x, y: _disc(x, y, 0.88),
    "square": lambda x, y: _box(x, y, 0.78, 0.78),
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": lambda x, y: (torch.hypot(x, y) - 0.68).abs() - 0.24,
    "heart": _heart,
    "moon": _moon,
}
