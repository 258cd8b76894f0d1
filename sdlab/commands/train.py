"""`sdlab train [STAGE] FILE`."""

from __future__ import annotations

from typing import Annotated

import typer

from sdlab.system.errors import UsageError
from sdlab.system.output import say
from sdlab.system.paths import user_path

EXAMPLE = "sdlab train experiments/train/scenes.toml"


def command(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[STAGE] FILE",
            help="a recipe, a TOML file like those in experiments/train; a stage before it (text, clip, vae, unet, "
            "evaluator) trains that stage alone",
        ),
    ],
    log: Annotated[
        str | None,
        typer.Option(metavar="<tracker>", help="show losses and sheets in tensorboard, trackio, wandb or mlflow too"),
    ] = None,
) -> None:
    """Train a model, or one stage of it. The same command continues an interrupted run."""
    from rich.console import Console

    from sdlab.train import run, run_all

    if log is not None:
        from sdlab.trackers import check_tracker

        check_tracker(log)
    match what:
        case [file]:
            for stage, measured in run_all(user_path(file), Console(), log):
                _report(measured, f"{stage}: ")
        case [stage, file]:
            _report(run(stage, user_path(file), Console(), log))
        case _:
            raise UsageError(f"sdlab train: give a file, or a stage and a file; got {len(what)} arguments")


def _report(measured: dict[str, float], prefix: str = "") -> None:
    for name, value in measured.items():
        say(f"{prefix}{name} {value:.5g}")
