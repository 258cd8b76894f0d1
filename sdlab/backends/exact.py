"""The backend of exact models: closed forms, named in `exact_models.MODELS`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import samplers
from sdlab.backends.bare import OpenedDenoiser
from sdlab.backends.base import Kind, Mistakes
from sdlab.backends.exact_models import MODELS
from sdlab.registry import Registry, frozen, label

_REGISTRY = Registry("model", MODELS, lambda name, **options: MODELS[name](**options))


def names() -> dict[str, str]:
    """The models of `exact_models`."""
    return {name: samplers.describe(MODELS[name]) for name in sorted(MODELS)}


def open_exact(name: str, options: Mapping[str, Any], folder: Path) -> OpenedDenoiser:
    """The model `name` with these options.

    Raises:
        Mistakes: an option is unknown or out of bounds.
    """
    options = {key: frozen(value) for key, value in options.items()}
    if wrong := _REGISTRY.mistakes(name, options):
        raise Mistakes(*wrong)
    identity = {"name": name, **_REGISTRY.complete(name, options)}
    return OpenedDenoiser(name, options, label(name, options), identity, MODELS[name](**options), nullcontext)


EXACT = Kind(names, lambda path: False, open_exact)
