"""The scenes world as training data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdlab.worlds import scenes
from sdlab.worlds.scenes import Scenes, Split


@dataclass(frozen=True)
class SceneBatch:
    """Scenes with their pictures, their captions and, in `scenes`, the ground truth."""

    scenes: Scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: slice | Tensor) -> SceneBatch:
        return SceneBatch(self.scenes[index])

    def images(self) -> Tensor:
        """The rendered scenes, (B, 3, 64, 64) in [−1, 1]."""
        return scenes.render(self.scenes)

    def captions(self, generator: torch.Generator) -> list[str]:
        """Captions with varied wording, which may omit attributes."""
        return scenes.describe(self.scenes, generator)


@dataclass(frozen=True)
class ScenePictures:
    """Fresh scenes for every batch.

    Stages that need the ground truth use this type instead of `CaptionedPictures`.
    """

    split: Split

    def batch(self, n: int, generator: torch.Generator) -> SceneBatch:
        """n scenes of the split, determined by the generator."""
        return SceneBatch(scenes.sample(n, generator, self.split))
