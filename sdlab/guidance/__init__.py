"""Guidance: a conditional model and two contexts -> one denoiser. A new rule is its file and its line in `GUIDANCE`.

rule    = guidance.make("cfg", scale=7.5)
denoise = rule(model, cond, uncond)              # denoise(x, sigma) -> x̂₀, for any sampler
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from samplers.checks import check_options, look_up
from sdlab.guidance.blend import Blend, Guidance, GuidedDenoiser
from sdlab.guidance.cfg import ClassifierFree
from sdlab.guidance.cfg_interval import ClassifierFreeInterval
from sdlab.guidance.none import Unguided

__all__ = [
    "GUIDANCE",
    "Blend",
    "ClassifierFree",
    "ClassifierFreeInterval",
    "Guidance",
    "GuidedDenoiser",
    "Unguided",
    "make",
]

GUIDANCE: dict[str, type[Guidance]] = {
    "none": Unguided,
    "cfg": ClassifierFree,
    "cfg_interval": ClassifierFreeInterval,
}


def make(name: str, **options: Any) -> Guidance:
    """The rule `name` with `options`; ValueError for an unknown name or option (with the nearest one) or bad value."""
    build = cast(Callable[..., Guidance], look_up("guidance", name, GUIDANCE))
    check_options(f"guidance {name!r}", build, options)
    return build(**options)
