"""The portraits world: people in pixel art, their pictures and captions."""

from sdlab.worlds.portraits.captions import Statement, describe, parse
from sdlab.worlds.portraits.render import render
from sdlab.worlds.portraits.world import FACTS, SIZE, Portraits, Split, sample

__all__ = ["FACTS", "SIZE", "Portraits", "Split", "Statement", "describe", "parse", "render", "sample"]
