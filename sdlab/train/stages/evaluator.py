"""The evaluator stage: the reader's network, trained on rendered scenes with all combinations.

The pictures are slightly blurred and noised, so that the network also works on generated pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.train.optimizer import standard
from sdlab.train.scene_pictures import ScenePictures
from sdlab.train.stage import Loss
from sdlab.train.stages.evaluator_config import EvaluatorTraining
from sdlab.weights.model_folder import save_part
from sdlab.worlds.scenes.captions import state
from sdlab.worlds.scenes.reader import CELLS, STRIDE, Evaluator, accuracy, check, read
from sdlab.worlds.scenes.world import COLOURS, PIXELS, SHAPES, Scenes


class EvaluatorStage:
    """The stage that maps pictures to their objects (centres and attributes) and background."""

    def __init__(self, config: EvaluatorTraining, pictures: ScenePictures) -> None:
        self.config, self.pictures = config, pictures
        torch.manual_seed(config.seed)
        self.evaluator = Evaluator()
        self.trained = {"evaluator": standard(self.evaluator, config)}

    def losses(self, step: int, generator: torch.Generator) -> Iterator[Loss]:
        """Focal loss of the heat map, and cross-entropies and squared errors of the other heads, equally weighted."""
        batch = self.pictures.batch(self.config.batch, generator)
        images = weather(batch.images(), generator)
        heads = self.evaluator(images.to(self.config.device))
        heads = {name: value.float().cpu() for name, value in heads.items()}
        losses = {**_cell_losses(heads, batch.scenes), **_picture_losses(heads, batch.scenes)}
        shown = {name: losses[name] for name in ("heat", "shape", "colour", "size", "background")}
        yield Loss("evaluator", torch.stack(list(losses.values())).sum(), shown)

    def finish(self) -> dict[str, float]:
        """Measure the attribute accuracy on unseen clean renders with all attributes stated. Write the weights.

        Raises:
            RunError: the weights cannot be written.
        """
        generator = torch.Generator().manual_seed(2**40 + self.config.seed)
        right: list[bool] = []
        whole: list[Tensor] = []
        for _ in range(16):
            batch = self.pictures.batch(256, generator)
            statements = state(batch.scenes, generator, leave_out=False)
            readings = read(self.evaluator, batch.images().to(self.config.device))
            right += [fact for s, r in zip(statements, readings, strict=True) for fact in check(s, r)]
            whole.append(accuracy(statements, readings) == 1)
        save_part(Path(self.config.model) / "evaluator.safetensors", self.evaluator, torch.bfloat16)
        return {"attribute_accuracy": sum(right) / len(right), "wholly_right": float(torch.cat(whole).float().mean())}


def weather(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur half of the pictures and add noise of random strength to all: (B, 3, H, W) -> (B, 3, H, W)."""
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mix = (torch.rand(len(images), 1, 1, 1, generator=generator) * 2 - 1).clamp(min=0)
    strength = 0.1 * torch.rand(len(images), 1, 1, 1, generator=generator).square()
    return torch.lerp(images, blurred, mix) + strength * torch.randn(images.shape, generator=generator)


def _cell_losses(heads: dict[str, Tensor], world: Scenes) -> dict[str, Tensor]:
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


def _picture_losses(heads: dict[str, Tensor], world: Scenes) -> dict[str, Tensor]:
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
