"""Training of the lab model: `sdlab train text | clip | vae | evaluator | unet CONFIG.toml`.

CLIP comes after its text tower, the U-Net after text tower and VAE.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console

from sdlab.system.errors import UsageError
from sdlab.system.lock import locked
from sdlab.train.config import TrainConfig, load_config

StageName = Literal["text", "clip", "vae", "unet", "evaluator"]
STAGES: tuple[StageName, ...] = get_args(StageName)


def run(stage: StageName, config_path: Path, console: Console) -> dict[str, float]:
    """Train one stage as the file describes, resuming it if it was interrupted; what it measured at the end.

    Raises:
        UsageError: the description is wrong, or a part of the model that the stage builds on is missing.
        RunError: training diverged, another process trains in the same folder, or a file could not be read or written.
    """
    config = load_config(config_path)
    # Imported here, so that a slip in the description is told before seconds of imports.
    from sdlab.system.device import resolve
    from sdlab.train.loop import Stage, train
    from sdlab.train.stages.clip import ClipStage
    from sdlab.train.stages.evaluator import EvaluatorStage
    from sdlab.train.stages.text import TextStage
    from sdlab.train.stages.unet import UnetStage
    from sdlab.train.stages.vae import VaeStage

    try:
        config = config.model_copy(update={"device": resolve(config.device)})
    except ValueError as error:
        raise UsageError(f"{config_path}: device: {error}") from None
    builders: dict[str, Callable[[TrainConfig], Stage]]
    builders = {"text": TextStage, "clip": ClipStage, "vae": VaeStage, "unet": UnetStage, "evaluator": EvaluatorStage}
    with locked(config.out):
        return train(builders[stage](config), config, console)
