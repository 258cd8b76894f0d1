"""`sdlab train STAGE CONFIG`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sdlab.commands.paths import path_argument
from sdlab.system.output import say

EXAMPLE = "sdlab train vae experiments/train/vae.toml"


class Stage(StrEnum):
    """The stages of `sdlab train`."""

    text = "text"
    clip = "clip"
    vae = "vae"
    unet = "unet"
    evaluator = "evaluator"


def command(
    stage: Annotated[Stage, typer.Argument(help="what to train")],
    config: Annotated[Path, path_argument("configuration, a TOML file like those in experiments/train")],
) -> None:
    """Train a part of the lab model. The same command continues an interrupted run."""
    from rich.console import Console

    from sdlab.train import run

    for name, value in run(stage.value, config, Console()).items():
        say(f"{name} {value:.5g}")
