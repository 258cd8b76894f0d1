"""Registries of names: the options that each name takes, and what is wrong with those given."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from samplers.checks import did_you_mean, option_types, unknown
from sdlab import plugins
from sdlab.system.errors import UsageError

Mistake = tuple[str, str]  # the key inside a choice, what is wrong with it

# What a value should be, in plainer words than pydantic's.
PLAIN = {
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "string_type": "should be text in quotes",
    "bool_type": "should be true or false",
    "list_type": "should be a list",
    "tuple_type": "should be a list",
}


@dataclass(frozen=True)
class Registry:
    """Names of one kind, and how one of them is built from its options."""

    kind: plugins.Kind
    known: Mapping[str, Callable[..., Any]]
    build: Callable[..., Any]
    shared: Callable[..., Any] | None = None  # its parameters are options of every name
    supplied: frozenset[str] = frozenset()  # parameters that are not options: they come from elsewhere
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
        """Every option of `name`, with defaults for those not given, and the digest of its code if that is custom."""
        filled = {key: options.get(key, parameter.default) for key, parameter in self.parameters(name).items()}
        filled = self.settle(name, filled) if self.settle else filled
        code = plugins.digest(self.kind, name)
        return filled if code is None else {**filled, "code": code}

    def mistakes(self, name: str, options: Mapping[str, Any], build: bool = True) -> list[Mistake]:
        """Everything wrong with a choice; with `build` also what only building it can find.

        A name like "my_sampler.py:MySampler" is read from that file and joins the known names.
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
    """A choice as a file writes it, with its `path` as its name: {path = "my_sampler.py:MySampler", order = 2}."""
    if isinstance(value, dict) and "path" in value and "name" not in value:
        return {"name": value["path"], **{key: item for key, item in value.items() if key != "path"}}
    return value


def frozen(value: Any) -> Any:
    """The value with its lists as tuples, as registered classes and functions take them."""
    return tuple(frozen(item) for item in value) if isinstance(value, list | tuple) else value


def label(name: str, options: Mapping[str, Any]) -> str:
    """`"cfg scale=3"`."""
    return " ".join([name, *(f"{key}={_short(value)}" for key, value in options.items())])


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(_short(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _complaint(hint: Any, value: Any) -> str:
    """`"should be a number"`, or an empty string when the value is of the type the option wants."""
    if isinstance(value, float) and math.isnan(value):
        return "should be a number"
    try:
        TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True)).validate_python(value)
    except (PydanticSchemaGenerationError, TypeError):
        return ""  # a type that TOML cannot write; building the choice will judge it
    except ValidationError as error:
        fault = error.errors()[0]
        return PLAIN.get(fault["type"], fault["msg"].removeprefix("Input "))
    return ""
