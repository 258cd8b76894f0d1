"""What is certified: every sampler as it comes, and with each of its options changed in turn."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

import samplers

# Values to try by the name of an option, where its type does not list them: how much noise, how far extrapolated.
_NOISE = (0.0, 0.3, 1.0)
_VALUES: dict[str, tuple[Any, ...]] = {
    "eta": _NOISE,
    "tau": _NOISE,
    "s_churn": (0.0, 5.0, 40.0),
    "gamma": (1.0, 1.5, 2.0),
    "repeats": (0, 1, 3),
    "scale": ("ode", "sde", "er_sde_1", "er_sde_2", "er_sde_3", "er_sde_4", "er_sde_5"),
}
_COUNTS = range(5)  # of levels, stages and orders: those that the rule accepts

FAMILIES: dict[str, tuple[str, ...]] = {  # title -> modules of samplers/
    "Euler, DDIM, DDPM": ("euler", "ddim", "ddpm", "lcm"),
    "Runge–Kutta": ("heun", "dpm2", "heunpp", "exponential_heun"),
    "DPM-Solver, single step": ("dpm_solver_single", "dpm_adaptive"),
    "DPM-Solver, multistep": ("dpm_solver", "res", "unipc"),
    "Adams in σ and t": ("lms", "ipndm", "pndm", "deis", "gradient_estimation"),
    "CFG++": ("cfg_pp",),
    "Ancestral": ("ancestral",),
    "Churn and restart": ("edm", "restart"),
    "SDE, one call": ("dpmpp_2m_sde", "dpmpp_3m_sde", "sa_solver", "er_sde"),
    "SDE, more calls": ("dpmpp_sde", "seeds"),
}
OTHER = "Others"


@dataclass(frozen=True)
class Subject:
    """A rule under a name, with the options that differ from its defaults."""

    name: str
    rule: samplers.Sampler
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`"ddim eta=0.3"`."""
        return label_of(self.name, self.options)

    @property
    def module(self) -> str:
        """The last part of the name of the module it is written in."""
        return type(self.rule).__module__.rpartition(".")[2]

    @property
    def family(self) -> str:
        """The panel and the page section it belongs to."""
        ours = type(self.rule).__module__.startswith("samplers.")
        return next((title for title, modules in FAMILIES.items() if ours and self.module in modules), OTHER)


def label_of(name: str, options: Mapping[str, Any]) -> str:
    """`"ddim eta=0.3"`."""
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def subjects(name: str, rule: samplers.Sampler | None = None) -> list[Subject]:
    """`name` with its default options first, then each option at each other value; `rule` for one of no registry."""
    plain = samplers.make(name) if rule is None else rule
    return [Subject(name, plain), *_variations(name, plain)]


def _variations(name: str, plain: samplers.Sampler) -> Iterator[Subject]:
    if not dataclasses.is_dataclass(plain):
        return
    hints = _hints(type(plain))
    for option in dataclasses.fields(plain):
        if not option.init:
            continue
        default = getattr(plain, option.name)
        for value in _values(option.name, hints.get(option.name), default):
            if value == default and type(value) is type(default):
                continue
            try:
                rule = dataclasses.replace(plain, **{option.name: value})
            except ValueError:
                continue
            yield Subject(name, rule, {option.name: value})


def _values(name: str, hint: Any, default: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    if isinstance(default, bool):
        return (False, True)
    if name in _VALUES:
        return _VALUES[name]
    return tuple(_COUNTS) if isinstance(default, int) else ()


def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, vars(sys.modules[kind.__module__]))
    except (NameError, KeyError):  # names imported for type checking alone
        return {}
