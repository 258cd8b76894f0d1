"""A model as one argument of the command line. A pipeline of diffusers may have options: "diffusers:FOLDER size=64"."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdlab.backends.diffusers.backend import KEY
from sdlab.system.resources import find
from sdlab.weights.locate import MODELS

_LAST = re.compile(r"\s+(?P<key>[A-Za-z_]+)=(?P<value>\S+)$")


def is_pipeline(text: str) -> bool:
    """Whether the model is a pipeline of diffusers."""
    return text.startswith(f"{KEY}:")


def is_single_file(name: str) -> bool:
    """Whether the name is that of a pipeline in one file, like "diffusers:FILE"."""
    return is_pipeline(name) and find(name.removeprefix(f"{KEY}:")).is_file()


def split_model(text: str) -> tuple[str, dict[str, Any]]:
    """The name of a model, which may contain spaces, and its options, whose values are written as in TOML."""
    options: dict[str, Any] = {}
    while is_pipeline(text) and (match := _LAST.search(text)):
        try:
            value = tomllib.loads(f"value = {match['value']}")["value"]
        except ValueError:
            value = match["value"]
        text, options = text[: match.start()], {match["key"]: value, **options}
    return text, options


def model_text(name: str, options: Mapping[str, Any]) -> str:
    """The inverse of `split_model`."""
    return " ".join([name, *(f"{key}={json.dumps(value)}" for key, value in options.items())])


def absolute_model(text: str) -> str:
    """The text with the absolute path of its file or folder."""
    if text in MODELS:
        return text
    if not is_pipeline(text):
        return absolute(text)
    name, options = split_model(text)
    return model_text(f"{KEY}:{absolute(name.removeprefix(f'{KEY}:'))}", options)


def absolute(path: str) -> str:
    """The absolute path of a file that exists. Other paths are unchanged, and so are those in folders like b"\\xe9"."""
    found = str(find(path).absolute())
    return found if Path(found).exists() and found.isprintable() else path
