"""Small training runs: a tiny model, configuration files, and a stage that fits a line."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import torch
from rich.console import Console
from torch import Tensor, nn

from sdlab.model.config import SCENES, ClipTextConfig, ClipVisionConfig, ModelConfig, UnetConfig, VaeConfig
from sdlab.train.config import Training
from sdlab.train.optimizer import standard
from sdlab.train.stage import Loss, Stage
from sdlab.train.stages import STAGES

QUIET = Console(quiet=True)

TINY = ModelConfig(
    name="tiny",
    image_size=64,
    text=ClipTextConfig(vocab_size=640, context_length=24, width=16, layers=1, heads=2),
    vision=ClipVisionConfig(image_size=64, patch=16, width=16, layers=1, heads=2, projection=16),
    vae=VaeConfig(width=8, multipliers=(1, 1, 1), residual_blocks=1, groups=2, scale=1.0),
    unet=UnetConfig(
        width=8, multipliers=(1, 1), residual_blocks=1, attention_rates=(2,), heads=2, context_width=16, groups=2
    ),
    levels=SCENES.levels,
    prediction="v",
)


def keys(folder: Path, **changes: object) -> dict[str, object]:
    """The keys of a short run in `folder`."""
    given = {"model": str(folder / "model"), "out": folder / "out", "steps": 6, "batch": 4, "lr": 1e-2, "warmup": 2}
    return {**given, "precision": "float32", **changes}


def write(path: Path, stage: str, table: dict[str, object]) -> Path:
    """A configuration file for a stage; scenes are few where the stage encodes them."""
    table = {"cache": 8, **table} if "cache" in STAGES[stage].model_fields else table
    rows = [f"{key} = {value if isinstance(value, int | float) else repr(str(value))}" for key, value in table.items()]
    path.write_text("\n".join(rows))
    return path


class Toy(Training):
    """The configuration of a stage that only tests use."""

    stage: ClassVar[str] = "toy"
    preview_every: int | None = None

    def previews(self) -> int | None:
        return self.preview_every

    def build(self):
        raise NotImplementedError


class Line(Stage):
    """A stage that fits y = 2x + 1; it can be interrupted at one step and diverge at another."""

    def __init__(self, config: Training, interrupt_at: int | None = None, poison_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.line = nn.Linear(1, 1)
        self.trained = {"line": standard(self.line, config)}
        self.interrupt_at, self.poison_at = interrupt_at, poison_at
        self.seen: list[float] = []

    @staticmethod
    def draw(generator: torch.Generator) -> Tensor:
        return torch.randn(64, 1, generator=generator)

    def losses(self, step: int, x: Tensor) -> Iterator[Loss]:
        if step == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        self.seen.append(float(x[0]))
        loss = (self.line(x) - 2 * x - 1).square().mean()
        yield Loss("line", loss * float("nan") if step == self.poison_at else loss)

    def finish(self) -> dict[str, float]:
        return {"slope": float(self.line.weight), "offset": float(self.line.bias)}
