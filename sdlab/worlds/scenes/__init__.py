"""The scenes world: scenes, their pictures and captions, and a reader that checks a picture against a caption."""

from sdlab.worlds.scenes.captions import Statement, Thing, describe, parse
from sdlab.worlds.scenes.render import render
from sdlab.worlds.scenes.world import PIXELS, Scenes, Split, sample

__all__ = ["PIXELS", "Scenes", "Split", "Statement", "Thing", "describe", "parse", "render", "sample"]
