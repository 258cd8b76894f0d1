"""Measures of the reconstructions of a VAE on unseen pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sdlab.metrics import fid
from sdlab.metrics.features import Statistics
from sdlab.metrics.lab import raw_features
from sdlab.metrics.psnr import psnr
from sdlab.metrics.ssim import ssim
from sdlab.train.data import CaptionedPictures
from sdlab.train.world_pictures import WorldBatch, WorldPictures
from sdlab.weights.model_folder import load_part
from sdlab.worlds.evaluator import Evaluator

_BATCHES, _BATCH = 16, 64


@torch.no_grad()
def measure(
    reconstruct: Callable[[Tensor], Tensor],
    pictures: CaptionedPictures,
    folder: Path,
    generator: torch.Generator,
    device: str,
) -> dict[str, float]:
    """The quality of reconstructions, a function of pictures (B, 3, H, W) in [−1, 1], on 1,024 pictures.

    `psnr_db` and `ssim` are means over pictures. `edges` is the RMS gradient of the reconstructions relative to that of
    the pictures: 1 if edges are as sharp, less if they are blurred, more if there are artefacts. If the pictures are
    those of a world and the model folder has its evaluator: `rfid` is the Fréchet distance to the pictures in its
    features, and `facts_read` the share of facts that it reads correctly in the reconstructions.
    """
    ratios, similar, features, real_features = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    energy = real_energy = 0.0
    facts: list[bool] = []
    world = pictures.world if isinstance(pictures, WorldPictures) else None
    path = folder / "evaluator.safetensors"
    reader = None if world is None or not path.is_file() else load_part(path, partial(Evaluator, world.HEADS), device)
    for _ in range(_BATCHES):
        batch = pictures.batch(_BATCH, generator)
        images = batch.images().to(device)
        decoded = reconstruct(images).float().clamp(-1, 1)
        ratios.append(psnr(decoded, images))
        similar.append(ssim(decoded, images))
        energy += gradient_energy(decoded)
        real_energy += gradient_energy(images)
        if reader is None or world is None or not isinstance(batch, WorldBatch):
            continue
        heads = reader(decoded)
        features.append(raw_features(heads))
        real_features.append(raw_features(reader(images)))
        stated = world.state(batch.truth, generator, complete=True)
        for statement, reading in zip(stated, world.readings(heads), strict=True):
            facts += world.check(statement, reading)
    found = {
        "psnr_db": float(torch.cat(ratios).mean()),
        "ssim": float(torch.cat(similar).mean()),
        "edges": (energy / max(real_energy, 1e-12)) ** 0.5,
    }
    if reader is not None:
        found["rfid"] = fid.distance(torch.cat(features), Statistics.of(torch.cat(real_features)))
        found["facts_read"] = sum(facts) / len(facts)
    return found


def gradient_energy(images: Tensor) -> float:
    """The sum of squared differences between neighbouring pixels of images (B, 3, H, W)."""
    return float(images.diff(dim=-1).square().sum() + images.diff(dim=-2).square().sum())
