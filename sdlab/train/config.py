"""What a training run is: one frozen description, read from TOML and checked whole before anything is built."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from samplers.checks import did_you_mean
from sdlab.system.errors import UsageError
from sdlab.system.files import reason
from sdlab.system.resources import find


class TrainConfig(BaseModel):
    """A training run. Two runs of the same description on the same machine see the same data in the same order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        "data/scenes", description="folder of the model: its other parts are read there, the new weights written"
    )
    out: Path = Field(description="folder for the checkpoint, the loss log and the samples of this run")
    start: Path | None = Field(
        None, description="weights (safetensors) to start from: what has its name and shape there is taken"
    )
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    lr: float = Field(gt=0, description="learning rate after the warm-up; it decays to 0 along a half cosine")
    warmup: int = Field(200, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(0.01, ge=0)
    beta2: float = Field(0.99, gt=0, lt=1)
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    ema: float = Field(
        0.999, ge=0, lt=1, description="decay of the moving average of the weights, which is what is kept"
    )
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = Field("bfloat16", description="autocast dtype")
    device: str = "cpu"
    compile: bool = Field(False, description="compile the network (torch.compile): faster steps, needs a C++ compiler")
    threads: int | None = Field(None, gt=0, description="CPU threads; by default PyTorch's own choice")
    save_every: int = Field(200, gt=0, description="steps between checkpoints")
    kl: float = Field(2e-4, ge=0, description="vae: weight of the mean KL divergence per latent number")
    grounding: float = Field(5.0, ge=0, description="clip: weight of the loss of what stands where")
    scenes: int = Field(40_000, gt=0, description="unet: pictures encoded once and then trained on")
    drop_caption: float = Field(
        0.1, ge=0, le=1, description="unet: share of empty captions, for classifier-free guidance"
    )
    focus: float | None = Field(
        None, gt=0, lt=1, description="unet: where in the table of timesteps most are drawn; by default uniformly"
    )


def load_config(path: Path) -> TrainConfig:
    """Read a training description; every mistake at once, a line each, as UsageError."""
    path = find(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {reason(error)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    try:
        return TrainConfig(**table)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            key = ".".join(map(str, fault["loc"]))
            if fault["type"] == "extra_forbidden":
                known = TrainConfig.model_fields
                lines.append(f"{path}: {key}: unknown key{did_you_mean(key, known)}; known: {', '.join(known)}")
            elif fault["type"] == "missing":
                lines.append(f"{path}: {key}: missing")
            else:
                lines.append(f"{path}: {key}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {fault['input']!r}")
        raise UsageError("\n".join(lines)) from None
