"""The configuration of a training run: the keys that all stages share.

Each stage adds its own keys in a subclass beside it (`stages/vae_config.py`). These modules import no torch, so
mistakes in a configuration file are reported without delay.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from sdlab.system.errors import UsageError
from sdlab.system.limits import BATCH, LARGEST, SEED, THREADS, TRAINING_STEPS, WORKERS
from sdlab.system.paths import path_fault
from sdlab.system.resources import find
from sdlab.worlds.registry import WORLDS

if TYPE_CHECKING:
    from torch import nn

    from sdlab.model.config import ModelConfig
    from sdlab.train.stage import Stage
    from sdlab.train.world_pictures import WorldPictures
    from sdlab.worlds.base import Split


TABLE = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)  # of a training file

# Keys on which the trained weights do not depend, but for rounding.
UNRELATED = {
    "save_every",
    "keep",
    "preview_every",
    "tensorboard",
    "log",
    "threads",
    "workers",
    "compile",
    "shard",
    "device",
    "out",
}


class Need(NamedTuple):
    """Weights that a stage builds on: the tensors of a file whose names start with `part`."""

    file: str  # in the model folder, or an absolute path
    part: str = ""


class Training(BaseModel, ABC):
    """A training run. On one machine, two runs of the same configuration use the same data in the same order."""

    model_config = TABLE

    stage: ClassVar[str]
    """The stage's name on the command line."""

    model: str = Field(
        "data/scenes", description="model folder; the stage reads the parts it needs from it and writes its part to it"
    )
    world: str = Field("scenes", description="world whose pictures are trained on: scenes or portraits")
    complete_captions: float = Field(
        0.0, ge=0, le=1, description="share of captions that state every fact; the others leave some out"
    )
    out: Path = Field(strict=False, description="folder for the checkpoint and the loss log")
    start: Path | None = Field(
        None,
        strict=False,
        description="weights to start from: a safetensors file, or a model folder such as data/scenes; tensors whose "
        "name and shape match are used",
    )
    steps: int = Field(ge=TRAINING_STEPS.low, le=TRAINING_STEPS.high, description="number of training steps")
    batch: int = Field(ge=BATCH.low, le=BATCH.high, description="examples per step")
    accumulate: int = Field(
        1,
        ge=BATCH.low,
        le=BATCH.high,
        description="batches whose gradients are averaged in one step, for larger steps than fit into memory",
    )
    optimizer: Literal["adamw", "adam", "muon"] = Field(
        "adamw",
        description="optimizer; `adam` has no weight decay, and `muon` is Muon on the weights of linear layers and "
        "convolutions and AdamW on the rest",
    )
    lr: float = Field(gt=0, le=LARGEST, description="learning rate after the warm-up")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="learning rate after the warm-up: decays to 0 along a half cosine or a line, or stays"
    )
    warmup: int = Field(200, ge=0, le=TRAINING_STEPS.high, description="steps of linear warm-up")
    weight_decay: float = Field(
        0.01, ge=0, le=LARGEST, description="weight decay of matrices and kernels, not of biases and gains"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="β₁ of Adam and AdamW")
    beta2: float = Field(0.99, gt=0, lt=1, description="β₂ of Adam and AdamW")
    clip: float = Field(1.0, gt=0, le=LARGEST, description="maximum gradient norm; larger gradients are scaled down")
    ema: float = Field(
        0.999, ge=0, lt=1, description="decay of the moving average of the weights; the average is saved"
    )
    snapshot_every: int | None = Field(
        None,
        ge=1,
        le=TRAINING_STEPS.high,
        description="steps between snapshots of two power-function averages, for `ema_length`; none by default",
    )
    ema_length: float | None = Field(
        None,
        gt=0,
        le=0.25,
        description="save the average of this length (σ_rel) in place of that of `ema`; it is computed from the "
        "snapshots after training, so it may change when the command is repeated",
    )
    seed: int = Field(
        0, ge=SEED.low, lt=SEED.high + 1, description="seed of the initial weights, the data and the noise"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="autocast dtype; with float16 the loss is scaled"
    )
    deterministic: bool = Field(
        False,
        description="use deterministic algorithms alone; slower on a GPU, where repeated runs then agree bit for bit",
    )
    device: str = Field("cpu", description="auto, cpu or cuda")
    compile: bool = Field(False, description="compile the network (torch.compile); needs a C++ compiler")
    threads: int | None = Field(
        None, ge=THREADS.low, le=THREADS.high, description="CPU threads; PyTorch's default if not set"
    )
    workers: int = Field(
        0,
        ge=WORKERS.low,
        le=WORKERS.high,
        description="processes that draw batches ahead of time, for a GPU that waits for its data; 0 draws them in the "
        "training process",
    )
    save_every: int = Field(200, ge=1, le=TRAINING_STEPS.high, description="steps between checkpoints")
    tensorboard: bool = Field(
        False, description="also write losses and sheets as TensorBoard event files; needs sdlab[tensorboard]"
    )
    log: Literal["mlflow", "tensorboard", "trackio", "wandb"] | None = Field(
        None, description="an experiment tracker that also shows losses and sheets; needs the extra of its name"
    )
    keep: int = Field(2, ge=1, le=1000, description="number of checkpoints that are kept")

    @field_validator("model", "out", "start", "data", "teacher", mode="before", check_fields=False)
    @classmethod
    def _path(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        if fault := path_fault(value):
            raise ValueError(f"`{info.field_name}`: {fault}")
        return str(Path(value).expanduser()) if value.startswith("~") else value

    @field_validator("ema_length")
    @classmethod
    def _from_snapshots(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("snapshot_every", 0) is None:
            raise ValueError("`ema_length` needs snapshots of the averages; set `snapshot_every`")
        return value

    @field_validator("world")
    @classmethod
    def _known_world(cls, value: str) -> str:
        if value not in WORLDS:
            from samplers.checks import unknown  # imports torch, so only when it is needed

            raise ValueError(f"`world`: {unknown('world', value, WORLDS)}")
        return value

    def pictures(self, split: Split) -> WorldPictures[Any]:
        """Fresh pictures of the world. Imports torch."""
        from sdlab.train.world_pictures import WorldPictures
        from sdlab.worlds.registry import open_world

        return WorldPictures(open_world(self.world), split, self.complete_captions)

    def start_file(self) -> Path | None:
        """The file of `start`."""
        return self.weights_at(self.start)

    def weights_at(self, path: Path | None) -> Path | None:
        """The file itself, or this stage's file in a model folder. Shipped models are found anywhere."""
        if path is None:
            return None
        found = find(path)
        return found / self.writes() if found.is_dir() else found

    def writes(self) -> str:
        """The weight file of the stage in the model folder."""
        return f"{self.stage}.safetensors"

    def needs(self) -> tuple[Need, ...]:
        """The weights of earlier stages that the stage builds on."""
        return ()

    def network(self, model: ModelConfig) -> nn.Module | None:
        """The network that `start` fills, with random weights. With None, `start` is checked when the stage begins."""
        return None

    def check(self, model: ModelConfig) -> None:
        """Check that the stage can train a model of this configuration, before anything is trained.

        Raises:
            UsageError: it cannot.
        """

    def check_vision(self, model: ModelConfig, what: str) -> None:
        """Check that the model has a vision encoder, which `what` needs.

        Raises:
            UsageError: it has none.
        """
        if model.vision is None:
            raise UsageError(f"{Path(self.model) / 'config.json'}: `vision` is null; {what} needs a vision encoder")

    def trackers(self) -> list[str]:
        """The experiment trackers of the run."""
        return list(dict.fromkeys([*["tensorboard"] * self.tensorboard, *([self.log] if self.log else [])]))

    def previews(self) -> int | None:
        """Steps between sheets of pictures, or None for none."""
        return None

    def sharded(self) -> bool:
        """Whether the network is sharded over the processes."""
        return False

    def for_measuring(self) -> Training:
        """The configuration of a stage that measures weights and does not train."""
        return self

    @abstractmethod
    def build(self) -> Stage:
        """The stage with its networks and data. Imports torch.

        Raises:
            UsageError: a part of the model that the stage needs is missing.
            RunError: a weight file is damaged.
        """
