"""Train the reader's network on renders of all combinations.

They are blurred and noised a little, so that it reads generated pictures too.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.train.config import TrainConfig
from sdlab.weights.model_folder import save_part
from sdlab.worlds import scenes
from sdlab.worlds.scenes.captions import state
from sdlab.worlds.scenes.reader import CELLS, STRIDE, Evaluator, accuracy, check, read
from sdlab.worlds.scenes.world import COLOURS, PIXELS, SHAPES, Scenes


class EvaluatorStage:
    """Pictures -> where objects are, what they are, and what the whole looks like."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        self.trained = Evaluator()

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Focal loss of the heat map, cross-entropies and squared errors of the rest, all of the same weight."""
        world = scenes.sample(self.config.batch, generator, "all")
        images = weather(scenes.render(world), generator)
        heads = self.trained(images.to(self.config.device))
        heads = {name: value.float().cpu() for name, value in heads.items()}
        losses = {**_cell_losses(heads, world), **_picture_losses(heads, world)}
        total = torch.stack(list(losses.values())).sum()
        return total, {name: losses[name] for name in ("heat", "shape", "colour", "size", "background")}

    def finish(self) -> dict[str, float]:
        """Attribute accuracy on unseen clean renders, fully described; write the weights."""
        generator = torch.Generator().manual_seed(2**40 + self.config.seed)
        right: list[bool] = []
        whole: list[Tensor] = []
        for _ in range(16):
            world = scenes.sample(256, generator, "all")
            statements = state(world, generator, leave_out=False)
            readings = read(self.trained, scenes.render(world).to(self.config.device))
            right += [fact for s, r in zip(statements, readings, strict=True) for fact in check(s, r)]
            whole.append(accuracy(statements, readings) == 1)
        folder = Path(self.config.model)
        save_part(folder / "evaluator.safetensors", self.trained, torch.bfloat16)
        return {"attribute_accuracy": sum(right) / len(right), "wholly_right": float(torch.cat(whole).float().mean())}


def weather(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half the pictures blurred, and all with noise of a random strength: (B, 3, H, W) to the same."""
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mix = (torch.rand(len(images), 1, 1, 1, generator=generator) * 2 - 1).clamp(min=0)
    strength = 0.1 * torch.rand(len(images), 1, 1, 1, generator=generator).square()
    return torch.lerp(images, blurred, mix) + strength * torch.randn(images.shape, generator=generator)


def _cell_losses(heads: dict[str, Tensor], world: Scenes) -> dict[str, Tensor]:
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

    # The attributes are asked of every cell within a cell and a half of a centre, so a peak one cell off reads right.
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


def _picture_losses(heads: dict[str, Tensor], world: Scenes) -> dict[str, Tensor]:
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
