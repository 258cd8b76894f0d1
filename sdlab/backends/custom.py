"""The backend of custom models: a function in a file beside the sweep, or in an installed package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import samplers
from sdlab import plugins
from sdlab.backends.bare import OpenedDenoiser
from sdlab.backends.base import Kind, Mistakes
from sdlab.backends.custom_model import CustomModel
from sdlab.plugins import MODELS, InvalidEntry
from sdlab.registry import Registry, frozen, label
from sdlab.system.errors import UsageError

_REGISTRY = Registry("model", MODELS, lambda name, **options: MODELS[name](**options))


def names() -> dict[str, str]:
    """The models of installed packages, and of the files read so far."""
    return {name: samplers.describe(MODELS[name]) for name in sorted(MODELS)}


def open_custom(name: str, options: Mapping[str, Any], folder: Path) -> OpenedDenoiser:
    """The model that a user's function returns, after checks.

    Raises:
        Mistakes: the file or its function is missing, the function fails or returns something else, or an option is
            invalid. The message is one line, and the traceback is in the log.
    """
    options = {key: frozen(value) for key, value in options.items()}
    with plugins.beside(folder):
        if wrong := _REGISTRY.mistakes(name, options, build=False):
            raise Mistakes(*wrong)
    guard = partial(plugins.reported_as, name, "is not a model")
    try:
        with guard():
            model = _whole(MODELS[name](**options))
    except UsageError as error:
        raise Mistakes(("", str(error))) from None
    identity = {"name": name, **_REGISTRY.complete(name, options)}
    return OpenedDenoiser(name, options, label(name, options), identity, model, guard)


CUSTOM = Kind(names, plugins.is_path, open_custom)


def _whole(made: object) -> CustomModel:
    """The value of a user's function as a model.

    Raises:
        InvalidEntry: it is not one.
    """
    if isinstance(made, tuple) and len(made) == 3:
        made = CustomModel(*made)
    if not isinstance(made, CustomModel):
        raise InvalidEntry(f"it should return (denoise, levels, shape) or a CustomModel, got {_kind(made)}")
    if not callable(made.denoise):
        raise InvalidEntry(f"denoise should be a function (x, sigma) -> x̂₀, got {_kind(made.denoise)}")
    low, high = (getattr(made.levels, end, None) for end in ("sigma_min", "sigma_max"))
    if not (isinstance(low, int | float) and isinstance(high, int | float) and 0 < low < high):
        raise InvalidEntry(
            f"levels should be a noise schedule like samplers.continuous_levels(…), got {_kind(made.levels)}"
        )
    if not isinstance(made.shape, tuple) or not made.shape or not all(type(n) is int and n > 0 for n in made.shape):
        raise InvalidEntry(f"shape should be the shape of one sample, like (3, 32, 32), got {made.shape!r}")
    if made.contexts is not None:
        cond, uncond = made.contexts
        if len(uncond) != 1 or cond.shape[1:] != uncond.shape[1:]:
            shapes = f"{tuple(cond.shape)} and {tuple(uncond.shape)}"
            raise InvalidEntry(f"contexts should have shapes (C, …) and (1, …), got {shapes}")
    return made


def _kind(value: object) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"
