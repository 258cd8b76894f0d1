"""The registry of worlds: one line per world. A world is imported when it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sdlab.worlds.base import World

AnyWorld = World[Any, Any, Any]


def _scenes() -> AnyWorld:
    from sdlab.worlds import scenes

    return scenes


def _portraits() -> AnyWorld:
    from sdlab.worlds import portraits

    return portraits


WORLDS: Mapping[str, Callable[[], AnyWorld]] = {"scenes": _scenes, "portraits": _portraits}


def open_world(name: str) -> AnyWorld:
    """The world of this name.

    Raises:
        KeyError: there is no such world.
    """
    return WORLDS[name]()
