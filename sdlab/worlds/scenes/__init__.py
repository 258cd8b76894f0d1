"""The scenes world: objects with a spatial relation on plain backgrounds."""

from sdlab.worlds.base import Split
from sdlab.worlds.scenes.captions import (
    CHOICES,
    EXAMPLE,
    Statement,
    Thing,
    alter,
    describe,
    facts,
    parse,
    state,
    trained,
    word,
)
from sdlab.worlds.scenes.marks import MARKS, marks, stated
from sdlab.worlds.scenes.reader import HEADS, Reading, Seen, check, readings
from sdlab.worlds.scenes.reader_losses import losses
from sdlab.worlds.scenes.render import render
from sdlab.worlds.scenes.world import PIXELS, SIZE, Scenes, sample

__all__ = [
    "CHOICES", "EXAMPLE", "HEADS", "MARKS", "PIXELS", "SIZE", "Reading", "Scenes", "Seen", "Split", "Statement",
    "Thing", "alter", "check", "describe", "facts", "losses", "marks", "parse", "readings", "render", "sample",
    "state", "stated", "trained", "word",
]  # fmt: skip
