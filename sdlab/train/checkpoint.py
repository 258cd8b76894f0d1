"""Checkpoints: the full state of an interrupted run, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import replacing
from sdlab.train.config import Training
from sdlab.train.learner import Learner

_FREE = {
    "steps",
    "save_every",
    "threads",
    "compile",
    "device",
    "out",
    "ema_length",
}  # may change; more `steps` extend a run


def write(path: Path, config: Training, learners: Mapping[str, Learner], step: int, seconds: float) -> None:
    """Save the state of the run after `step` steps. The file is replaced atomically.

    Raises:
        RunError: the file cannot be written.
    """
    state = {
        "stage": config.stage,
        "config": config.model_dump_json(),
        "step": step,
        "seconds": seconds,
        "trained": {name: learner.state_dict() for name, learner in learners.items()},
    }
    with replacing(path) as draft:
        try:
            torch.save(state, draft)
        except RuntimeError as error:  # raised by torch on a full disk
            raise RunError(f"cannot write {path}: {str(error).splitlines()[0]}") from error


def resume(path: Path, config: Training, learners: Mapping[str, Learner]) -> tuple[int, float]:
    """Load the checkpoint if it exists. Returns the steps done and the seconds they took.

    Raises:
        UsageError: the checkpoint belongs to another run.
        RunError: it cannot be read, lacks a part, or was written by an earlier version of sdlab.
    """
    if not path.exists():
        return 0, 0.0
    try:
        saved: Any = torch.load(path, map_location=config.device, weights_only=True)
    except Exception as error:
        raise RunError(f"{path}: cannot be read ({type(error).__name__}); delete it to start again") from error
    if isinstance(saved, dict) and "trained" not in saved:
        raise RunError(f"{path} was written by an earlier version of sdlab; delete it to start again")
    match saved:
        case {
            "stage": str(), "config": str(), "step": int(step), "seconds": int() | float() as seconds,
            "trained": dict(trained),
        } if step >= 0 and seconds >= 0:  # fmt: skip
            pass
        case _:
            raise RunError(f"{path}: is not a complete checkpoint of sdlab; delete it to start again")
    _compare(path, config, saved)
    try:
        for name, learner in learners.items():
            learner.load_state_dict(trained[name])
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        what = str(error).splitlines()[0]
        raise RunError(f"{path} does not fit the stage's networks ({what}); delete it to start again") from error
    return step, float(seconds)


def _compare(path: Path, config: Training, saved: Mapping[str, Any]) -> None:
    if saved["stage"] != config.stage:
        raise UsageError(f"{path} belongs to a run of the {saved['stage']} stage; give `out` another folder")
    # A key that is newer than the checkpoint had its default.
    defaults = type(config).model_construct(out=config.out, steps=0, batch=0, lr=0.0).model_dump_json()
    try:
        now, then = json.loads(config.model_dump_json()), json.loads(defaults) | json.loads(saved["config"])
    except (ValueError, TypeError):
        raise RunError(f"{path}: is not a complete checkpoint of sdlab; delete it to start again") from None
    changed = [k for k in now if k not in _FREE and now[k] != then.get(k)]
    if changed:
        what = ", ".join(f"`{k}` was {then.get(k)!r} and is now {now[k]!r}" for k in changed)
        raise UsageError(f"{path} belongs to another run ({what}); give `out` another folder or delete it")
