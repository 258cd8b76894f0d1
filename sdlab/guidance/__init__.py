"""Guidance strategies, each with one file and one line in `GUIDANCE`.

strategy = guidance.make("cfg", scale=7.5)
denoise = guidance.Guided(strategy, model, {"cond": cond, "uncond": uncond})  # denoise(x, sigma) -> x̂₀, for one run
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from samplers.checks import check_options, look_up
from sdlab.guidance.affine import Affine
from sdlab.guidance.base import Query, State, Strategy
from sdlab.guidance.cfg import ClassifierFree
from sdlab.guidance.cfg_interval import ClassifierFreeInterval
from sdlab.guidance.guided import Guided
from sdlab.guidance.nag import NormalisedAttention
from sdlab.guidance.none import Unguided
from sdlab.guidance.pag import PerturbedAttention
from sdlab.guidance.seg import SmoothedEnergy
from sdlab.guidance.slg import SkipLayer
from sdlab.guidance.tpg import TokenPerturbation

__all__ = [
    "GUIDANCE",
    "Affine",
    "ClassifierFree",
    "ClassifierFreeInterval",
    "Guided",
    "Query",
    "State",
    "Strategy",
    "Unguided",
    "make",
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

    Raises:
        ValueError: the name or an option is unknown (the message suggests the nearest one), or a value is invalid.
    """
    build = cast(Callable[..., Strategy], look_up("guidance", name, GUIDANCE))
    check_options(f"guidance {name!r}", build, options)
    return build(**options)
