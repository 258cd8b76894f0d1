"""Checkpoints: the full state of an interrupted run, in one file.

The newest is `checkpoint.pt` in the run folder, the one before it `checkpoint.1.pt`, and so on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic_core import from_json

from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import replacing
from sdlab.system.output import remark
from sdlab.train import processes
from sdlab.train.config import UNRELATED, Training
from sdlab.train.inputs import different, digests
from sdlab.train.learner import Learner

# Keys that may change when a run is resumed; more `steps` extend it.
_FREE = UNRELATED | {"steps", "ema_length"}


def newest(config: Training) -> Path:
    """The path of the newest checkpoint of the run."""
    return config.out / "checkpoint.pt"


def exists(config: Training) -> bool:
    """Whether the run has a checkpoint."""
    return bool(_existing(config))


def write(config: Training, learners: Mapping[str, Learner], step: int, seconds: float) -> None:
    """Save the state of the run after `step` steps. The last `config.keep` checkpoints are kept.

    A checkpoint takes its name when it is complete. All processes call it together, and the first one writes.

    Raises:
        RunError: the file cannot be written.
    """
    trained = {name: learner.state_dict() for name, learner in learners.items()}
    if processes.rank() > 0:
        return
    state = {
        "stage": config.stage,
        "config": config.model_dump_json(),
        "processes": processes.count(),
        "inputs": digests(config),
        "step": step,
        "seconds": seconds,
        "trained": trained,
    }
    path = newest(config)
    with replacing(path) as draft:
        try:
            torch.save(state, draft)
        except RuntimeError as error:  # raised by torch on a full disk
            raise RunError(f"cannot write {path}: {str(error).splitlines()[0]}") from error
        kept = _existing(config)[: config.keep - 1]
        for age in reversed(range(len(kept))):
            kept[age].replace(config.out / f"checkpoint.{age + 1}.pt")
    for older in _existing(config)[config.keep :]:
        older.unlink()


def resume(config: Training, learners: Mapping[str, Learner]) -> tuple[int, float]:
    """Load the newest checkpoint that can be read. Returns the steps done and the seconds they took, 0 without one.

    Raises:
        UsageError: the checkpoint belongs to another run.
        RunError: none can be read or is complete, or it was written by an earlier version of sdlab.
    """
    paths = _existing(config)
    if not paths:
        return 0, 0.0
    # The parts of a sharded network go from the file to the device one by one.
    path, saved = _readable(paths, "cpu" if config.sharded() else config.device)
    _compare(path, config, saved)
    try:
        for name, learner in learners.items():
            learner.load_state_dict(saved["trained"][name])
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        what = str(error).splitlines()[0]
        raise RunError(f"{path} does not fit the stage's networks ({what}); delete it to start again") from error
    return saved["step"], float(saved["seconds"])


def _readable(paths: list[Path], device: str) -> tuple[Path, dict[str, Any]]:
    """The first checkpoint that can be read, and its content. Those before it are deleted."""
    errors = []
    for path in paths:
        try:
            saved = _read(path, device)
        except RunError as error:
            errors.append(error)
            continue
        for damaged, why in zip(paths, errors, strict=False):
            remark(f"warning: {why.lines[0].partition(';')[0]}; continuing from {path.name}")
            damaged.unlink(missing_ok=True)  # another process may have deleted it
        return path, saved
    raise errors[0]


def _existing(config: Training) -> list[Path]:
    """The checkpoints of the run, newest first."""
    older = [path for path in config.out.glob("checkpoint.*.pt") if path.name.split(".")[1].isdecimal()]
    paths = [newest(config), *sorted(older, key=lambda path: int(path.name.split(".")[1]))]
    return [path for path in paths if path.exists()]


def _read(path: Path, device: str) -> dict[str, Any]:
    """The content of a checkpoint, with every part of its type."""
    try:
        saved: Any = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise RunError(f"{path}: cannot be read ({type(error).__name__}); delete it to start again") from error
    if isinstance(saved, dict) and "trained" not in saved:
        raise RunError(f"{path} was written by an earlier version of sdlab; delete it to start again")
    match saved:
        case {
            "stage": str(), "config": str(), "step": int(step), "seconds": int() | float() as seconds,
            "trained": dict(),
        } if step >= 0 and seconds >= 0:  # fmt: skip
            return dict(saved)
        case _:
            raise RunError(f"{path}: is not a complete checkpoint of sdlab; delete it to start again")


def _compare(path: Path, config: Training, saved: Mapping[str, Any]) -> None:
    if saved["stage"] != config.stage:
        raise UsageError(f"{path} belongs to a run of the {saved['stage']} stage; give `out` another folder")
    # A key that is newer than the checkpoint had its default.
    defaults = type(config).model_construct(out=config.out, steps=0, batch=0, lr=0.0).model_dump_json()
    try:
        now, then = json.loads(config.model_dump_json()), json.loads(defaults) | from_json(saved["config"])
    except (ValueError, TypeError):
        raise RunError(f"{path}: is not a complete checkpoint of sdlab; delete it to start again") from None
    batches = then["accumulate"] * saved.get("processes", processes.count())  # not stored by earlier versions
    if batches == now["accumulate"] * processes.count():
        now["accumulate"] = then["accumulate"]
    elif then["accumulate"] == now["accumulate"]:
        raise UsageError(
            f"{path} belongs to a run of {saved['processes']} processes, and this one has {processes.count()}; change "
            "`accumulate` so that `accumulate` times processes stays the same, or give `out` another folder"
        )
    changed = [k for k in now if k not in _FREE and now[k] != then.get(k)]
    if changed:
        what = ", ".join(f"`{k}` was {then.get(k)!r} and is now {now[k]!r}" for k in changed)
        raise UsageError(f"{path} belongs to another run ({what}); give `out` another folder or delete it")
    if others := different(saved.get("inputs"), digests(config)):
        raise UsageError(
            f"{config.model}: {' and '.join(others)} changed after {path} was written; "
            "give `out` another folder or delete it"
        )
