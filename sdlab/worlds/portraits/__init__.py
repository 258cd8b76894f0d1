"""The portraits world: people in pixel art."""

from sdlab.worlds.base import Split
from sdlab.worlds.portraits.captions import (
    CHOICES,
    EXAMPLE,
    Statement,
    alter,
    describe,
    facts,
    parse,
    state,
    trained,
    word,
)
from sdlab.worlds.portraits.marks import MARKS, marks, stated
from sdlab.worlds.portraits.reader import HEADS, check, losses, readings
from sdlab.worlds.portraits.render import render
from sdlab.worlds.portraits.world import FACTS, SIZE, Portraits, sample

__all__ = [
    "CHOICES", "EXAMPLE", "FACTS", "HEADS", "MARKS", "SIZE", "Portraits", "Split", "Statement", "alter", "check",
    "describe", "facts", "losses", "marks", "parse", "readings", "render", "sample", "state", "stated", "trained",
    "word",
]  # fmt: skip
