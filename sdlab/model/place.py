"""Places in the U-Net."""

from __future__ import annotations

from typing import NamedTuple

from sdlab.model.config import Size


class Place(NamedTuple):
    """A transformer of the U-Net during a pass."""

    transformer: str = ""
    size: Size = (0, 0)  # (height, width) of its feature map, so T = height · width
    names: tuple[str, ...] = ()  # the names of `UnetConfig.layers` that include it
