"""The model folder that training fills: each stage reads the parts made before it and replaces its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sdlab.model.config import SCENES, ModelConfig
from sdlab.weights.model_folder import read_config, save_config


def configuration(folder: Path) -> ModelConfig:
    """The folder's configuration, or that of the lab model when the folder has none yet."""
    return read_config(folder) if (folder / "config.json").exists() else SCENES


def update(folder: Path, **parts: Any) -> None:
    """Replace parts of the folder's configuration; what other stages have written meanwhile stays."""
    save_config(folder, replace(configuration(folder), **parts))
