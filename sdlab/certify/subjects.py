"""Certification subjects: every sampler with its default options, and with one option changed at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

import samplers
from samplers.checks import option_types
from sdlab.certify.checks import Broken, measuring

# Values to try by the name of an option, if its type does not list them.
_NOISE = (0.0, 0.3, 1.0)
_VALUES: dict[str, tuple[Any, ...]] = {
    "eta": _NOISE,
    "tau": _NOISE,
    "s_churn": (0.0, 5.0, 40.0),
    "r1": (0.3, 0.7),
    "c2": (0.3, 1.0),
    "c3": (0.4, 0.8),
    "clip": (1.0,),
    "gamma": (0.5, 1.0, 1.5, 2.0),
    "mixing": (0.8, 1.0),
    "norm": (0.0, 0.5),
    "reach": (0.0, 0.5, 1.0),
    "refinements": (),  # of the inversion of DDIM; no sample depends on it
    "repeats": (0, 1, 3),
    "scale": ("ode", "sde", "er_sde_1", "er_sde_2", "er_sde_3", "er_sde_4", "er_sde_5"),
}
_COUNTS = range(5)  # of levels, stages and orders; values that the sampler rejects are skipped

FAMILIES: dict[str, tuple[str, ...]] = {  # title -> modules of samplers/
    "Euler, DDIM, DDPM": ("euler", "ddim", "ddpm", "lcm", "tcd"),
    "Runge–Kutta": ("heun", "dpm2", "heunpp", "exponential_heun", "res_single"),
    "DPM-Solver, single step": ("dpm_solver_single", "dpm_singlestep", "dpm_adaptive"),
    "DPM-Solver, multistep": ("dpm_solver", "dpm_solver_v3", "res", "unipc"),
    "Adams in σ and t": ("lms", "ipndm", "pndm", "deis", "gradient_estimation"),
    "Exact inversion": ("belm", "bdia", "edict"),
    "CFG++": ("cfg_pp",),
    "Ancestral": ("ancestral",),
    "Churn and restart": ("edm", "restart"),
    "SDE, one call": ("dpm_2m_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "sa_solver", "er_sde", "sit_sde"),
    "SDE, more calls": ("dpmpp_sde", "seeds"),
}
OTHER = "Others"


@dataclass(frozen=True)
class Subject:
    """A sampler with its name and the options that differ from the defaults."""

    name: str
    sampler: samplers.Sampler
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`"ddim eta=0.3"`."""
        return label_of(self.name, self.options)

    @property
    def module(self) -> str:
        """The last part of its module's name."""
        return type(self.sampler).__module__.rpartition(".")[2]

    @property
    def family(self) -> str:
        """Its panel in the plot and section of the page."""
        ours = type(self.sampler).__module__.startswith("samplers.")
        return next((title for title, modules in FAMILIES.items() if ours and self.module in modules), OTHER)


def label_of(name: str, options: Mapping[str, Any]) -> str:
    """`"ddim eta=0.3"`."""
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def subjects(name: str, sampler: samplers.Sampler | None = None) -> list[Subject]:
    """`name` with its default options first, then each option at each other value; `sampler` if unregistered."""
    plain = samplers.make(name) if sampler is None else sampler
    return [Subject(name, plain), *_variations(name, plain)]


def _variations(name: str, plain: samplers.Sampler) -> Iterator[Subject]:
    if not dataclasses.is_dataclass(plain):
        return
    hints = option_types(type(plain))
    for option in dataclasses.fields(plain):
        if not option.init:
            continue
        default = getattr(plain, option.name)
        for value in _values(option.name, hints.get(option.name), default):
            if value == default and type(value) is type(default):
                continue
            try:
                with measuring():
                    sampler = dataclasses.replace(plain, **{option.name: value})
            except Broken:
                continue
            yield Subject(name, sampler, {option.name: value})


def _values(name: str, hint: Any, default: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    if isinstance(default, bool):
        return (False, True)
    if name in _VALUES:
        return _VALUES[name]
    return tuple(_COUNTS) if isinstance(default, int) else ()
