"""The kinds of choice a cell makes: the names there are, the options each takes, and what is wrong with a choice."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

import samplers
from samplers.checks import did_you_mean, option_types, unknown
from samplers.grids import OURS, default_ending
from sdlab import guidance, plugins
from sdlab.backends import custom as own_pipeline
from sdlab.system.errors import UsageError

Mistake = tuple[str, str]  # the key inside the choice, what is wrong with it
LEVELS = samplers.discrete_levels()  # the noise levels that all text-to-image models here were trained on


@dataclass(frozen=True)
class Axis:
    """A registry of names, and how one of them is built from its options."""

    kind: plugins.Kind
    known: Mapping[str, Callable[..., Any]]
    build: Callable[..., Any]
    shared: Callable[..., Any] | None = None  # its parameters are options of every name
    supplied: frozenset[str] = frozenset()  # parameters that are no options: the cell gives them
    settle: Callable[[str, dict[str, Any]], dict[str, Any]] | None = None  # defaults that depend on other options

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """The options `name` takes, in the order of its signature."""
        return {
            key: parameter
            for built in self._sources(name)
            for key, parameter in inspect.signature(built).parameters.items()
            if key not in self.supplied and parameter.kind is not parameter.VAR_KEYWORD
        }

    def _sources(self, name: str) -> list[Callable[..., Any]]:
        return [self.known[name], *([self.shared] if self.shared else [])]

    def complete(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Every option of `name`, the defaults for those not given; and the digest of its code, if that is not ours."""
        filled = {key: options.get(key, parameter.default) for key, parameter in self.parameters(name).items()}
        filled = self.settle(name, filled) if self.settle else filled
        code = plugins.digest(self.kind, name)
        return filled if code is None else {**filled, "code": code}

    def mistakes(self, name: str, options: Mapping[str, Any], build: bool = True) -> list[Mistake]:
        """Everything wrong with a choice; with `build` also what only its construction finds out.

        A name like "my_sampler.py:MySampler" is read from that file and joins the names there are.
        """
        if plugins.is_path(name):
            try:
                plugins.add(self.kind, name)
            except UsageError as error:
                return [("name", str(error))]
        if name not in self.known:
            return [("name", unknown(self.kind, name, self.known))]
        parameters = self.parameters(name)
        hints = {key: hint for built in self._sources(name) for key, hint in option_types(built).items()}
        found = []
        for key, value in options.items():
            if key not in parameters:
                takes = ", ".join(parameters) or "none"
                found.append((key, f"unknown option of {name}{did_you_mean(key, parameters)}; it takes: {takes}"))
            elif complaint := _complaint(hints.get(key, Any), value):
                found.append((key, f"{complaint}, got {value!r}"))
        if found or not build:
            return found
        try:
            self.build(name, **options)
        except (ValueError, TypeError, UsageError) as error:
            return [("", str(error))]
        return []


def named(value: object) -> object:
    """A choice as the file writes it, its `path` as its name: {path = "my_sampler.py:MySampler", order = 2}."""
    if isinstance(value, dict) and "path" in value and "name" not in value:
        return {"name": value["path"], **{key: item for key, item in value.items() if key != "path"}}
    return value


def _complaint(hint: Any, value: Any) -> str:
    """`"should be a number"`, or an empty string when the value is of the type the option wants."""
    if isinstance(value, float) and math.isnan(value):
        return "should be a number"
    try:
        TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True)).validate_python(value)
    except (PydanticSchemaGenerationError, TypeError):
        return ""  # a type TOML cannot write: the construction will judge
    except ValidationError as error:
        fault = error.errors()[0]
        return PLAIN.get(fault["type"], fault["msg"].removeprefix("Input "))
    return ""


# What a value should be, in plainer words than pydantic's.
PLAIN = {
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "string_type": "should be a text in quotes",
    "bool_type": "should be true or false",
    "list_type": "should be a list",
    "tuple_type": "should be a list",
}


def _grid(name: str, steps: int | None = None, levels: samplers.Levels = LEVELS, **options: Any) -> tuple[float, ...]:
    """A grid to try a choice with: of ten steps, or of as many as its own list has."""
    if steps is None:
        listed = options.get("sigmas") or options.get("timesteps") if name == "explicit" else None
        steps = len(listed) - (_ending(name, options) != "to_zero") if listed else 10
    return samplers.grid(name, steps=steps, levels=levels, **options)


def _settled(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """`options` of a grid with its ending: the one given, or that of the dialect."""
    return {**options, "ending": _ending(name, options)}


def _ending(name: str, options: Mapping[str, Any]) -> str:
    ending = options.get("ending")
    return default_ending(name, options.get("dialect", OURS)) if ending is None else ending


plugins.discover()
SAMPLER = Axis("sampler", samplers.SAMPLERS, samplers.make)
GUIDANCE = Axis("guidance", guidance.GUIDANCE, guidance.make)
GRID = Axis("grid", samplers.GRIDS, _grid, samplers.grid, frozenset({"name", "steps", "levels"}), _settled)
MODEL = Axis("model", plugins.MODELS, own_pipeline.build)


def grids_of(levels: samplers.Levels) -> Axis:
    """`GRID` for a model with other levels."""
    return replace(GRID, build=partial(_grid, levels=levels))
