"""The model folder of a training run. Each stage reads the parts of earlier stages and replaces its own part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sdlab.model.config import SCENES, ModelConfig
from sdlab.weights.model_folder import read_config, save_config


def configuration(folder: Path) -> ModelConfig:
    """The folder's configuration, or the lab model's if it has none yet.

    Raises:
        UsageError: `config.json` is invalid.
    """
    return read_config(folder) if (folder / "config.json").exists() else SCENES


def update(folder: Path, **parts: Any) -> None:
    """Replace parts of the folder's configuration; the parts of other stages are kept.

    Raises:
        UsageError: `config.json` is invalid.
        RunError: it cannot be written.
    """
    save_config(folder, replace(configuration(folder), **parts))
