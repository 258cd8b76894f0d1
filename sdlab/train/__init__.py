"""Training: `sdlab train STAGE CONFIG.toml`.

The stages are `text`, `clip`, `vae`, `unet` and `evaluator` (`sdlab.train.stages.STAGES`). `clip` builds on the text
encoder, `unet` on the text encoder and the VAE.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from sdlab.system.errors import UsageError
from sdlab.system.lock import locked
from sdlab.train.config_file import load_config


def run(stage: str, path: Path, console: Console) -> dict[str, float]:
    """Train one stage from a configuration file, resuming an interrupted run. Returns the stage's measurements.

    In processes other than the first, which torchrun may start, there are none.

    Raises:
        UsageError: the configuration is invalid, or a part of the model that the stage needs is missing.
        RunError: training diverged, another process trains in the same folder, or a file could not be read or written.
    """
    config = load_config(stage, path)
    for key, folder in (("model", Path(config.model)), ("out", config.out)):
        if in_the_way := next((place for place in (folder, *folder.parents) if place.is_file()), None):
            raise UsageError(f"{path}: `{key}` must be a folder, but {in_the_way} is a file")
    # Imported here, so that a mistake in the file is reported before the slow imports.
    from sdlab.system.device import resolve
    from sdlab.train import processes
    from sdlab.train.loop import train

    try:
        config = config.model_copy(update={"device": resolve(config.device)})
    except ValueError as error:
        raise UsageError(f"{path}: device: {error}") from None
    with processes.joined(config.device) as device:
        config = config.model_copy(update={"device": device})
        if processes.rank() > 0:
            return train(config.build(), config, Console(quiet=True))
        with locked(config.out):
            return train(config.build(), config, console)
