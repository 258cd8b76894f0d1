"""The captioned world: scenes, their pictures, their captions, and a reader that checks one against the other."""

from sdlab.worlds.scenes.captions import Statement, Thing, describe, parse
from sdlab.worlds.scenes.render import render
from sdlab.worlds.scenes.world import PIXELS, Scenes, Split, sample

__all__ = ["PIXELS", "Scenes", "Split", "Statement", "Thing", "describe", "parse", "render", "sample"]
