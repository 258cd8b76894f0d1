"""The checks of a recipe before its first stage starts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sdlab.model.config import ModelConfig
from sdlab.system.errors import SdlabError, UsageError
from sdlab.trackers import check_tracker
from sdlab.train import checkpoint, finished
from sdlab.train.captioned_config import CaptionedTraining
from sdlab.train.config import Need, Training
from sdlab.train.folder import configuration
from sdlab.train.recipe import NETWORK, Part
from sdlab.train.stages.clip_config import ClipTraining
from sdlab.train.stages.text_config import TextTraining
from sdlab.train.stages.unet_config import UnetTraining
from sdlab.train.start import matching
from sdlab.weights.model_folder import read_config, save_config


def prepare(path: Path, parts: Sequence[Part]) -> None:
    """Check all stages, and write the `config.json` of model folders that have none.

    Raises:
        UsageError: a stage needs a file that neither exists nor is made by an earlier stage, has begun with weights
            that an earlier one would replace, cannot train its model or use its `data`, or its tracker is not
            installed; `[network]` is invalid, or differs from the `config.json` of the model folder.
        RunError: a `config.json` cannot be written, or the weights of `start` are damaged.
    """
    if faults := [*_missing(parts), *_stranded(parts)]:
        raise UsageError(*(f"{path}: {one}" for one in faults))
    for name in dict.fromkeys(name for part in parts for name in part.config.trackers()):
        check_tracker(name)
    new, models, written = dict[Path, ModelConfig](), dict[Path, ModelConfig](), set[Path | None]()
    for part in parts:
        folder = Path(part.config.model)
        if part.network is not None:
            config = _network(part.network, f"{path}: [{NETWORK}]")
            if not (folder / "config.json").exists():
                new[folder] = config
            elif differing := _differing(config, read_config(folder), parts):
                raise UsageError(
                    f"{path}: [{NETWORK}]: {', '.join(differing)} differs from {folder / 'config.json'}; "
                    "use another model folder"
                )
        model = models.get(folder) or new.get(folder) or configuration(folder)
        part.config.check(model)
        if part.config.start_file() not in written:
            _check_start(path, part, model)
        written.add(folder / part.config.writes())
        if isinstance(part.config, UnetTraining):
            models[folder] = part.config.changed(model)  # which the tables after it find
        if isinstance(part.config, CaptionedTraining) and part.config.data is not None:
            try:
                part.config.captioned("train")
            except UsageError as error:
                raise UsageError(*(f"{path}: [{part.name}]: `data`: {line}" for line in error.lines)) from None
    for folder, config in new.items():
        save_config(folder, config)


def _check_start(path: Path, part: Part, model: ModelConfig) -> None:
    """Check that the file of `start` has weights of the stage's network, if the stage is to use it.

    Raises:
        UsageError: it has another format, or no tensor that fits.
        RunError: it is damaged.
    """
    start = part.config.start_file()
    if start is None or not start.is_file() or finished.exists(part.config) or checkpoint.exists(part.config):
        return
    with torch.device("meta"):
        network = part.config.network(model)
    if network is None:
        return
    try:
        matching(start, network.state_dict())
    except SdlabError as error:
        raise type(error)(*(f"{path}: [{part.name}]: {line}" for line in error.lines)) from None


def _network(table: Mapping[str, Any], where: str) -> ModelConfig:
    try:
        text = json.dumps(table)
    except TypeError:
        raise UsageError(f"{where}: has a date or a time, which no `config.json` has; remove it") from None
    return ModelConfig.from_json(text, where)


def _missing(parts: Sequence[Part]) -> Iterator[str]:
    made, untrained = set[Path](), set[Path]()  # the latter with a vision encoder that is not trained yet
    for part in parts:
        folder, start = Path(part.config.model), part.config.start_file()
        needed = [folder / need.file for need in part.config.needs()] + ([] if start is None else [start])
        for file in needed:
            if file not in made and not file.is_file():
                yield f"[{part.name}]: needs {file}, which is missing; train it in an earlier table"
        for need in part.config.needs():
            if folder / need.file in untrained and need.part != "text.":
                yield f"[{part.name}]: needs a trained vision encoder; train the clip stage in an earlier table"
        written = folder / part.config.writes()
        made.add(written)
        if isinstance(part.config, TextTraining) and part.config.teacher is None and not finished.exists(part.config):
            untrained.add(written)
        else:
            untrained.discard(written)


def _stranded(parts: Sequence[Part]) -> Iterator[str]:
    """The messages for stages with a checkpoint that an earlier stage, which is to be finished anew, makes useless."""
    replaced = dict[Path, Part]()
    for part in parts:
        config, folder = part.config, Path(part.config.model)
        if finished.exists(config):
            continue
        for need in config.needs():
            earlier = replaced.get(folder / need.file)
            if earlier is None or not checkpoint.exists(config) or _keeps(earlier.config, need):
                continue
            keys = ", ".join(f"`{key}`" for key in finished.changed_keys(earlier.config))
            yield (
                f"[{part.name}]: cannot continue from {checkpoint.newest(config)} if [{earlier.name}], whose {keys} "
                f"changed, replaces {need.file}; change it in [{part.name}] alone, or give [{part.name}] another `out`"
            )
        if finished.changed_keys(config):
            replaced[folder / config.writes()] = part


def _keeps(config: Training, need: Need) -> bool:
    """Whether a stage keeps that part of the file it writes: CLIP's text encoder, if it was trained on a world."""
    return isinstance(config, ClipTraining) and config.data is None and need.part == "text."


def _differing(wanted: ModelConfig, found: ModelConfig, parts: Sequence[Part]) -> list[str]:
    """The keys in which two configurations differ, except those that stages write."""
    wanted = replace(
        wanted,
        text=replace(wanted.text, vocab_size=found.text.vocab_size),
        vae=replace(wanted.vae, scale=found.vae.scale, shift=found.vae.shift),
    )
    unets = [part.config for part in parts if isinstance(part.config, UnetTraining)]
    if any(unet.prediction is not None or unet.noise_schedule is not None for unet in unets):
        wanted = replace(wanted, prediction=found.prediction, levels=found.levels)
    left, right = dict(_flat(asdict(wanted))), dict(_flat(asdict(found)))
    return [key for key in left | right if left.get(key) != right.get(key)]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
