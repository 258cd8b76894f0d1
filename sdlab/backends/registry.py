"""The registry of backends, and opening of a model by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samplers.checks import unknown
from sdlab.backends.base import Kind, Mistakes, Opened
from sdlab.backends.custom import CUSTOM
from sdlab.backends.diffusers.backend import DIFFUSERS
from sdlab.backends.exact import EXACT
from sdlab.backends.latent import LATENT
from sdlab.system.output import remark
from sdlab.system.paths import path_fault

BACKENDS: dict[str, Kind] = {
    "diffusers": DIFFUSERS,
    "latent": LATENT,
    "exact": EXACT,
    "custom": CUSTOM,
}


def names() -> dict[str, str]:
    """The names of all models, each with a line of description. If two backends share a name, the first is used."""
    found: dict[str, str] = {}
    for kind in BACKENDS.values():
        found = {**found, **{name: about for name, about in kind.names().items() if name not in found}}
    return found


def named(value: object) -> object:
    """A model from a sweep file, with the key of its backend as its name: {diffusers = "FOLDER", size = 512}."""
    for kind in BACKENDS.values():
        if kind.key is not None and isinstance(value, dict) and "name" not in value and kind.key in value:
            others = {key: item for key, item in value.items() if key != kind.key}
            return {"name": f"{kind.key}:{value[kind.key]}", **others}
    return value


def open_model(name: str, options: Mapping[str, Any], folder: Path) -> Opened:
    """The model of a sweep file in `folder`. Its headers and configuration are read, its weights are not.

    Raises:
        Mistakes: the model is not found, or an option is invalid.
    """
    if fault := path_fault(name):
        raise Mistakes(("", fault))
    named = [kind for kind in BACKENDS.values() if name in kind.names()]
    if len(named) > 1:
        remark(f"warning: two models are named {name!r}; the built-in one is used")
    for kind in named or [kind for kind in BACKENDS.values() if kind.reads(name)]:
        return kind.open(name, options, folder)
    if "/" in name:
        raise Mistakes(("", f"model file or folder {name!r} not found"))
    raise Mistakes(("", unknown("model", name, names()) + ", or the path of a model file or folder"))
