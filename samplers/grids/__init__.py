"""Grids: the σ of a run, from the highest down."""

from samplers.grids.dialects import DIALECTS
from samplers.grids.registry import ENDINGS, GRIDS, OURS, Ending, default_ending, grid

__all__ = ["DIALECTS", "ENDINGS", "GRIDS", "OURS", "Ending", "default_ending", "grid"]
