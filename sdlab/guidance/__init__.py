"""Guidance strategies, each with one file and one line in `GUIDANCE`.

strategy = guidance.make("cfg", scale=7.5)
denoise = guidance.Guided(strategy, model, {"cond": cond, "uncond": uncond})  # denoise(x, sigma) -> x̂₀, for one run
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from samplers.checks import check_options, look_up
from sdlab.guidance.adaptive import AdaptiveGuidance
from sdlab.guidance.affine import Affine
from sdlab.guidance.apg import AdaptiveProjected
from sdlab.guidance.autoguidance import Autoguidance
from sdlab.guidance.base import ContextNoise, Found, Input, Level, Loss, Query, State, Strategy
from sdlab.guidance.beta_cfg import BetaGuidance
from sdlab.guidance.cads import ConditionAnnealed
from sdlab.guidance.cfg import ClassifierFree
from sdlab.guidance.cfg_interval import ClassifierFreeInterval
from sdlab.guidance.cfg_norm import LimitedNorm
from sdlab.guidance.cfg_zero import ZeroStar
from sdlab.guidance.composed import ComposedPrompts
from sdlab.guidance.contrast import Contrast
from sdlab.guidance.dual import Dual
from sdlab.guidance.dynamic_thresholding import DynamicThresholding
from sdlab.guidance.epsilon_scaling import EpsilonScaling
from sdlab.guidance.fbg import Feedback
from sdlab.guidance.fdg import FrequencyDecoupled
from sdlab.guidance.guided import Guided
from sdlab.guidance.icg import IndependentCondition
from sdlab.guidance.interval import Interval
from sdlab.guidance.mambo_g import MagnitudeAware
from sdlab.guidance.momentum import Momentum
from sdlab.guidance.nag import NormalisedAttention
from sdlab.guidance.none import Unguided
from sdlab.guidance.pag import PerturbedAttention
from sdlab.guidance.perp_neg import PerpendicularNegative
from sdlab.guidance.rescale import Rescaled
from sdlab.guidance.sag import SelfAttention
from sdlab.guidance.schedule import Scheduled
from sdlab.guidance.seg import SmoothedEnergy
from sdlab.guidance.sg import SelfGuidance
from sdlab.guidance.slg import SkipLayer
from sdlab.guidance.tcfg import TangentialDamping
from sdlab.guidance.tpg import TokenPerturbation
from sdlab.guidance.tsg import TimeStep
from sdlab.guidance.universal import Universal
from sdlab.guidance.wrapping import WRAPPERS, unchained, wrapped

__all__ = [
    "GUIDANCE",
    "WRAPPERS",
    "AdaptiveGuidance",
    "AdaptiveProjected",
    "Affine",
    "BetaGuidance",
    "ClassifierFree",
    "ClassifierFreeInterval",
    "ComposedPrompts",
    "ConditionAnnealed",
    "ContextNoise",
    "Contrast",
    "DynamicThresholding",
    "EpsilonScaling",
    "Feedback",
    "Found",
    "FrequencyDecoupled",
    "Guided",
    "IndependentCondition",
    "Input",
    "Interval",
    "Level",
    "LimitedNorm",
    "Loss",
    "MagnitudeAware",
    "Momentum",
    "PerpendicularNegative",
    "Query",
    "Rescaled",
    "Scheduled",
    "SelfGuidance",
    "State",
    "Strategy",
    "TangentialDamping",
    "Unguided",
    "ZeroStar",
    "make",
    "unchained",
    "wrapped",
]

GUIDANCE: dict[str, type[Strategy]] = {
    "adaptive": AdaptiveGuidance,
    "apg": AdaptiveProjected,
    "autoguidance": Autoguidance,
    "beta_cfg": BetaGuidance,
    "cads": ConditionAnnealed,
    "cfg": ClassifierFree,
    "cfg_interval": ClassifierFreeInterval,
    "cfg_norm": LimitedNorm,
    "cfg_zero": ZeroStar,
    "composed": ComposedPrompts,
    "dual": Dual,
    "dynamic_thresholding": DynamicThresholding,
    "epsilon_scaling": EpsilonScaling,
    "fbg": Feedback,
    "fdg": FrequencyDecoupled,
    "icg": IndependentCondition,
    "mambo_g": MagnitudeAware,
    "momentum": Momentum,
    "nag": NormalisedAttention,
    "none": Unguided,
    "pag": PerturbedAttention,
    "perp_neg": PerpendicularNegative,
    "rescale": Rescaled,
    "sag": SelfAttention,
    "seg": SmoothedEnergy,
    "sg": SelfGuidance,
    "slg": SkipLayer,
    "tcfg": TangentialDamping,
    "tpg": TokenPerturbation,
    "tsg": TimeStep,
    "universal": Universal,
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
