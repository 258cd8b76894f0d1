"""Guidance strategies, each with one file and one line in `GUIDANCE`.

strategy = guidance.make("cfg", scale=7.5)
denoise = guidance.Guided(strategy, model, {"cond": cond, "uncond": uncond})  # denoise(x, sigma) -> x̂₀, for one run
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from samplers.checks import check_options, look_up
from sdlab.guidance.affine import Affine
from sdlab.guidance.base import ContextNoise, Level, Query, State, Strategy
from sdlab.guidance.cfg import ClassifierFree
from sdlab.guidance.cfg_interval import ClassifierFreeInterval
from sdlab.guidance.guided import Guided
from sdlab.guidance.interval import Interval
from sdlab.guidance.nag import NormalisedAttention
from sdlab.guidance.none import Unguided
from sdlab.guidance.pag import PerturbedAttention
from sdlab.guidance.schedule import Scheduled
from sdlab.guidance.seg import SmoothedEnergy
from sdlab.guidance.slg import SkipLayer
from sdlab.guidance.tpg import TokenPerturbation
from sdlab.guidance.wrapping import WRAPPERS, unchained, wrapped

__all__ = [
    "GUIDANCE",
    "WRAPPERS",
    "Affine",
    "ClassifierFree",
    "ClassifierFreeInterval",
    "ContextNoise",
    "Guided",
    "Interval",
    "Level",
    "Query",
    "Scheduled",
    "State",
    "Strategy",
    "Unguided",
    "make",
    "unchained",
    "wrapped",
]

GUIDANCE: dict[str, type[Strategy]] = {
    "none": Unguided,
    "cfg": ClassifierFree,
    "cfg_interval": ClassifierFreeInterval,
    "nag": NormalisedAttention,
    "pag": PerturbedAttention,
    "seg": SmoothedEnergy,
    "slg": SkipLayer,
    "tpg": TokenPerturbation,
}


def make(name: str, **options: Any) -> Strategy:
    """The guidance strategy `name` with `options`.

    Every strategy also has the options of `wrapped`: an `interval` of noise levels and a weight `schedule`.

        make("apg", eta=0.0, interval=(0.3, 5.0), schedule="linear")

    Raises:
        ValueError: the name or an option is unknown (the message suggests the nearest one), or a value is invalid.
    """
    build = cast(Callable[..., Strategy], look_up("guidance", name, GUIDANCE))
    around = {key: options.pop(key) for key in WRAPPERS if key in options}
    check_options(f"guidance {name!r}", build, options, WRAPPERS)
    return wrapped(build(**options), **around)
