"""Grids of noise levels: the registry, and the functions it names."""

from samplers.grids.registry import ENDINGS, GRIDS, Ending, grid

__all__ = ["ENDINGS", "GRIDS", "Ending", "grid"]
