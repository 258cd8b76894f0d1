"""The record of a finished stage, by which a recipe knows what need not be trained again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from sdlab.system.errors import UsageError
from sdlab.system.files import replacing
from sdlab.system.reading import read_bytes
from sdlab.train.config import UNRELATED, Training
from sdlab.train.inputs import different, digests

_NAME = "finished.json"


def record(config: Training, measured: Mapping[str, float]) -> None:
    """Write down that the run is finished, and with which weights of earlier stages.

    Raises:
        RunError: the file cannot be written.
    """
    with replacing(config.out / _NAME) as draft:
        content = {"config": _said(config), "inputs": digests(config), "measured": dict(measured)}
        draft.write_text(json.dumps(content, indent=2), encoding="utf-8")


def exists(config: Training) -> bool:
    """Whether the run was finished with this configuration and its weights are in the model folder."""
    try:
        return bool(_saved(config)["config"] == _said(config)) and (Path(config.model) / config.writes()).is_file()
    except (UsageError, ValueError, LookupError, TypeError):
        return False


def changed_keys(config: Training) -> list[str]:
    """The keys that the run was finished with other values of; none if it was not finished."""
    try:
        before, now = _saved(config)["config"], _said(config)
        return sorted(key for key in before | now if before.get(key) != now.get(key))
    except (UsageError, ValueError, LookupError, TypeError, AttributeError):
        return []


def outdated(config: Training) -> list[str]:
    """The files of the model folder whose weights differ from those that the finished run was trained with.

    Raises:
        UsageError: a file has another format.
        RunError: a file is damaged.
    """
    return different(_saved(config).get("inputs"), digests(config))


def _saved(config: Training) -> dict[str, Any]:
    saved = from_json(read_bytes(config.out / _NAME))
    if not isinstance(saved, dict):
        raise TypeError(f"{_NAME} is not an object")
    return saved


def _said(config: Training) -> dict[str, Any]:
    """The keys that matter, without those at their defaults, so that a new key does not change old records."""
    said: dict[str, Any] = json.loads(config.model_dump_json(exclude=UNRELATED, exclude_defaults=True))
    return said | {"stage": config.stage}
