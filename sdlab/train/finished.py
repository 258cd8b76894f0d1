"""The record of a finished stage, by which a recipe knows what need not be trained again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sdlab.system.files import replacing
from sdlab.train.config import UNRELATED, Training

_NAME = "finished.json"


def record(config: Training, measured: Mapping[str, float]) -> None:
    """Write down that the run is finished.

    Raises:
        RunError: the file cannot be written.
    """
    with replacing(config.out / _NAME) as draft:
        draft.write_text(json.dumps({"config": _said(config), "measured": dict(measured)}, indent=2), encoding="utf-8")


def exists(config: Training) -> bool:
    """Whether the run was finished with this configuration and its weights are in the model folder."""
    try:
        saved = json.loads((config.out / _NAME).read_text(encoding="utf-8"))
        return bool(saved["config"] == _said(config)) and (Path(config.model) / config.writes()).is_file()
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _said(config: Training) -> object:
    """The keys that matter, without those at their defaults, so that a new key does not change old records."""
    return json.loads(config.model_dump_json(exclude=UNRELATED, exclude_defaults=True)) | {"stage": config.stage}
