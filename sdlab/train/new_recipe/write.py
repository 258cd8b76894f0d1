"""`sdlab new recipe NAME --data DIR`: a recipe that fits a data set, with an estimate of its time."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdlab.model.config import ModelConfig, Size
from sdlab.system.device import resolve, resolve_dtype
from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import check_writable, reason
from sdlab.system.text import shown
from sdlab.train.new_recipe.choice import network, scale_of, stages
from sdlab.train.new_recipe.survey import Survey, survey
from sdlab.train.new_recipe.trial import STEPS, seconds_per_step
from sdlab.train.recipe import NETWORK, parts_of


def new_recipe(name: str, data: str, folder: Path) -> tuple[Path, str]:
    """Write `name`.toml into `folder`. Returns its path and the estimate of its time. No file is replaced.

    Raises:
        UsageError: the name is invalid or taken, or `data` cannot be used or has too few pictures.
        RunError: a file cannot be written.
    """
    stem = name.removesuffix(".toml")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", stem):
        raise UsageError(f"a recipe's name must consist of letters, digits, _ and -; got {name!r}")
    path, out = folder / f"{stem}.toml", Path("out", stem)
    for taken in (path, out):
        if taken.exists():
            raise UsageError(f"{taken} already exists and was not changed; choose another name")
    check_writable(path)
    found, device = survey(data), resolve("auto")
    scale = scale_of(device)
    shared = {"data": data, "model": str(out / "model"), "out": str(out), "device": device}
    shared["precision"] = resolve_dtype("auto", device)
    model, tables = network(stem, found, scale), stages(found, scale)
    body = _toml(shared, model, tables)
    seconds = seconds_per_step(parts_of(path, tomllib.loads(body)), model)
    minutes = {stage: math.ceil(seconds[stage] * tables[stage]["steps"] / 60) for stage in tables}
    estimate = f"{sum(minutes.values())} minutes ({', '.join(f'{one} {n}' for one, n in minutes.items())})"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_head(path, found, model, estimate) + body)
    except FileExistsError:
        raise UsageError(f"{path} already exists and was not changed; choose another name") from None
    except OSError as error:
        raise RunError(f"cannot write {path}: {reason(error)}") from None
    return path, estimate


def _head(path: Path, found: Survey, model: ModelConfig, estimate: str) -> str:
    """The comment at the top of the recipe."""
    cut = f"; longer ones are cut at {model.text.context_length}" if found.tokens > model.text.context_length else ""
    return (
        f"# sdlab train {shown(path)}     or one stage: sdlab train unet {shown(path)}\n"
        f"# {found.train + found.held} pictures with captions, {found.held} of them held out for measurements.\n"
        f"# They have {_size(found.smallest)} to {_size(found.largest)} pixels (height × width); "
        f"the model has {model.image_size} × {model.image_size}, and `fit` says how they are brought to it.\n"
        f"# The longest caption has {found.tokens} tokens{cut}.\n"
        f"# Estimate on this machine: {estimate}, from {STEPS} steps of each stage.\n"
    )


def _size(size: Size) -> str:
    return f"{size[0]} × {size[1]}"


def _toml(shared: Mapping[str, Any], model: ModelConfig, tables: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [*_rows(shared), 'fit = "crop"', "", f"[{NETWORK}]", *_rows(asdict(model))]
    for stage, table in tables.items():
        rows += ["", f"[{stage}]", *_rows(table)]
    return "\n".join(rows) + "\n"


def _rows(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(_rows(value)) + "}"
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # which JSON leaves as it is
