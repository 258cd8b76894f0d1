"""Recipes: the stages of a model in one TOML file, in the order in which they are trained.

Keys at the top are shared by all stages that have them. Each table is a stage. A table with another name than its stage
has a key `stage`. `[network]` is the `config.json` of the model folder. A stage with a `model` of its own has a
`network` of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdlab.system.errors import UsageError
from sdlab.train.captioned_config import CaptionedTraining
from sdlab.train.config import Training
from sdlab.train.mistakes import sentence
from sdlab.train.stages import STAGES

NETWORK = "network"
_BARE_KEY = re.compile("[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Part:
    """A stage of a recipe. `network` is the content of the `config.json` of its model folder, if the recipe has it."""

    name: str
    config: Training
    network: Mapping[str, Any] | None


def is_recipe(table: Mapping[str, Any]) -> bool:
    """Whether the content of a training file is a recipe, rather than the configuration of one stage."""
    return any(isinstance(value, dict) and (key in STAGES or "stage" in value) for key, value in table.items())


def parts_of(path: Path, table: Mapping[str, Any]) -> list[Part]:
    """The stages of a recipe in order.

    Raises:
        UsageError: keys or values are invalid. The message has one line per mistake and names its table.
    """
    shared = {key: value for key, value in table.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in table.items() if isinstance(value, dict) and key != NETWORK}
    kinds = {name: STAGES.get(str(own.get("stage", name))) for name, own in tables.items()}
    mistakes, parts = _unknown(shared, tables, kinds), list[Part]()
    for name, own in tables.items():
        if (kind := kinds[name]) is None:
            continue
        if "data" in shared and not issubclass(kind, CaptionedTraining):
            mistakes.append(f"[{name}]: the {kind.stage} stage needs the ground truth of a world; remove it or `data`")
            continue
        keys = {key: value for key, value in shared.items() if key in kind.model_fields}
        if isinstance(out := shared.get("out"), str) and out.strip():
            keys["out"] = f"{out}/{name}"
        keys |= {key: value for key, value in own.items() if key not in ("stage", NETWORK)}
        try:
            config = kind(**keys)
        except ValidationError as error:
            mistakes += [f"[{name}]: {sentence(kind, one)}" for one in error.errors()]
            continue
        network = own.get(NETWORK, None if "model" in own else table.get(NETWORK))
        if network is not None and not isinstance(network, dict):
            mistakes.append(f"[{name}]: `{NETWORK}` must be a table, like the `config.json` of a model folder")
            continue
        parts.append(Part(name, config, network))
    mistakes += _shared_folders(parts)
    if mistakes:
        raise UsageError(*(f"{path}: {mistake}" for mistake in dict.fromkeys(mistakes)))
    return parts


def _unknown(
    shared: Mapping[str, Any], tables: Mapping[str, Any], kinds: Mapping[str, type[Training] | None]
) -> list[str]:
    """The messages for tables that are not a stage, and for shared keys that no stage of the recipe has."""
    from samplers.checks import did_you_mean, unknown  # imports torch, so only when a recipe is read

    strange = [name for name, kind in kinds.items() if kind is None]
    unfit = [name for name, kind in kinds.items() if kind is not None and not _BARE_KEY.fullmatch(name)]
    found = [f"[{name}]: {unknown('stage', str(tables[name].get('stage', name)), STAGES)}" for name in strange]
    found += [f"[{name}]: a stage's table names its folder; use letters, digits, _ and - alone" for name in unfit]
    known = {key for kind in kinds.values() if kind is not None for key in kind.model_fields}
    return found + [f"unknown key `{key}`{did_you_mean(key, known)}" for key in shared if key not in known]


def _shared_folders(parts: Sequence[Part]) -> Iterator[str]:
    """The messages for stages whose checkpoints would replace each other's."""
    owners = dict[str, str]()
    for part in parts:
        owner = owners.setdefault(os.path.normpath(part.config.out.absolute()), part.name)
        if owner != part.name:
            yield f"[{part.name}]: `out` is that of [{owner}]; give each stage a folder of its own"
