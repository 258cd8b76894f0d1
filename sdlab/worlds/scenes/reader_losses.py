"""The losses of the evaluator on scenes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.worlds.evaluator import STRIDE
from sdlab.worlds.scenes.reader import CELLS
from sdlab.worlds.scenes.world import COLOURS, PIXELS, SHAPES, Scenes


def losses(outputs: Mapping[str, Tensor], scenes: Scenes) -> dict[str, Tensor]:
    """Focal loss of the heat map, and cross-entropies and squared errors of the other heads."""
    return {**_cell_losses(outputs, scenes), **_picture_losses(outputs, scenes)}


def _cell_losses(heads: Mapping[str, Tensor], world: Scenes) -> dict[str, Tensor]:
    """Losses of the cell heads, with a focal loss for the heat map (Zhou et al. 2019, arXiv:1904.07850, eq. 1)."""
    there = torch.stack([torch.ones_like(world.count), world.count - 1], 1).bool()  # (B, 2)
    cells = (torch.arange(CELLS) + 0.5) * STRIDE
    dx = (cells.view(1, 1, 1, -1) - world.centre[..., 0, None, None]) / STRIDE  # (B, 2, 1, 16)
    dy = (cells.view(1, 1, -1, 1) - world.centre[..., 1, None, None]) / STRIDE
    closeness = torch.exp(-(dx.square() + dy.square()) / 2) * there[..., None, None]
    target = closeness.amax(1)
    centre = torch.zeros_like(target)
    picture, k = there.nonzero(as_tuple=True)
    place = (world.centre[picture, k] / STRIDE).long().clamp(0, CELLS - 1)
    centre[picture, place[:, 1], place[:, 0]] = 1
    heat = heads["heat"].squeeze(1)
    p = heat.sigmoid()
    found = centre * (1 - p).square() * F.logsigmoid(heat)
    empty = (1 - centre) * (1 - target).pow(4) * p.square() * F.logsigmoid(-heat)
    losses = {"heat": -(found + empty).sum() / len(picture)}

    # All cells within 1.5 cells of a centre are trained on the attributes, so a peak one cell off is still correct.
    near, which, row, column = (closeness > 0.32).nonzero(as_tuple=True)

    def at(name: str) -> Tensor:
        return heads[name][near, :, row, column]

    for name in ("shape", "colour", "size"):
        losses[name] = F.cross_entropy(at(name), getattr(world, name)[near, which])
    offset = torch.stack([-dx[near, which, 0, column], -dy[near, which, row, 0]], 1)
    losses["offset"] = F.mse_loss(at("offset"), offset)
    exact = torch.stack([world.radius / 10, world.hue, world.rotation / 0.3, world.centre[..., 0] / PIXELS], -1)
    losses["fine"] = 0.1 * F.mse_loss(at("fine"), exact[near, which])
    return losses


def _picture_losses(heads: Mapping[str, Tensor], world: Scenes) -> dict[str, Tensor]:
    """Losses of the picture heads."""
    pairs = torch.zeros(len(world), len(SHAPES) * len(COLOURS))
    kind = world.shape * len(COLOURS) + world.colour
    pairs.scatter_(1, kind[:, :1], 1)
    pairs.scatter_reduce_(1, kind[:, 1:], (world.count - 1).float()[:, None], reduce="amax")
    first = world.centre.flatten(1) / PIXELS
    alone = (world.count == 1)[:, None]
    where = torch.where(alone, first[:, :2].repeat(1, 2), first)
    middle, spread = (where[:, :2] + where[:, 2:]) / 2, (where[:, :2] - where[:, 2:]).abs()
    return {
        "background": F.cross_entropy(heads["background"], world.background),
        "pairs": 20 * F.binary_cross_entropy_with_logits(heads["pairs"], pairs),
        "light": 10 * F.mse_loss(heads["light"], world.light * 5),
        "tone": F.mse_loss(heads["tone"], world.tone),
        "where": 10 * F.mse_loss(heads["where"], torch.cat([middle, spread], 1)),
    }
