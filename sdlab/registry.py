"""Registries of named entries, and checks of the options for each entry."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, time
from typing import Any

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from samplers.checks import did_you_mean, option_types, parameters_of, unknown
from sdlab import plugins
from sdlab.system.errors import SdlabError, UsageError
from sdlab.system.limits import brief

Mistake = tuple[str, str]  # the key inside a choice, and the message

# Plainer messages than pydantic's.
PLAIN = {
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "string_type": "should be text in quotes",
    "bool_type": "should be true or false",
    "list_type": "should be a list",
    "tuple_type": "should be a list",
    "sequence_str": "should be a list",
    "is_instance_of": "should be a list",  # the only classes that options ask for are sequences
}


@dataclass(frozen=True)
class Registry:
    """The entries of one kind, and the function that builds one from its options."""

    kind: plugins.Kind
    known: Mapping[str, Callable[..., Any]]
    build: Callable[..., Any]
    shared: Callable[..., Any] | None = None  # its parameters are options of every entry
    supplied: frozenset[str] = frozenset()  # parameters that are not options, because the caller supplies them
    settle: Callable[[str, dict[str, Any]], dict[str, Any]] | None = None  # defaults that depend on other options
    unchained: Callable[[list[object]], dict[str, Any]] | None = None  # a choice that is a list, as a table
    example: str = ""  # a common entry, which messages name

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """The options of `name`, in the order of its signature."""
        return {
            key: parameter
            for built in self._sources(name)
            for key, parameter in parameters_of(built).items()
            if key not in self.supplied and parameter.kind is not parameter.VAR_KEYWORD
        }

    def _sources(self, name: str) -> list[Callable[..., Any]]:
        return [self.known[name], *([self.shared] if self.shared else [])]

    def complete(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options of `name`, with defaults filled in, and the digest of its code if it is custom.

        The defaults of an unknown name, for instance a custom entry in the stored run of another process, are unknown.
        """
        if name not in self.known:
            return dict(options)
        filled = {key: options.get(key, parameter.default) for key, parameter in self.parameters(name).items()}
        filled = self.settle(name, filled) if self.settle else filled
        code = plugins.digest(self.kind, name)
        return filled if code is None else {**filled, "code": code}

    def mistakes(self, name: str, options: Mapping[str, Any], build: bool = True) -> list[Mistake]:
        """All mistakes in a choice. With `build`, also the mistakes that only building it can find.

        A name like "my_sampler.py:MySampler" is loaded from its file and added to the registry.
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
                found.append((key, f"{complaint}, got {brief(value)}"))
        if found or not build:
            return found
        try:
            with plugins.Boundary().crossed():
                self.build(name, **options)
        except SdlabError as error:
            return [self.placed(name, str(error))]
        return []

    def placed(self, name: str, message: str) -> Mistake:
        """A message like `"ClassifierFree.scale must be …"` as a mistake in its option: users know no classes."""
        prefix = f"{getattr(self.known[name], '__name__', '')}."
        key, _, rest = message.removeprefix(prefix).partition(" ")
        return (key, rest) if key in self.parameters(name) else ("", message)


def named(value: object) -> object:
    """A choice from a sweep file, with its `path` as its name: {path = "my_sampler.py:MySampler", order = 2}."""
    if isinstance(value, dict) and "path" in value and "name" not in value:
        return {"name": value["path"], **{key: item for key, item in value.items() if key != "path"}}
    return value


def frozen(value: Any) -> Any:
    """The value with lists as tuples, as registered classes and functions expect them."""
    return tuple(frozen(item) for item in value) if isinstance(value, list | tuple) else value


def label(name: str, options: Mapping[str, Any]) -> str:
    """A label like `"cfg scale=3"`."""
    return " ".join([name, *(f"{key}={_short(value)}" for key, value in options.items())])


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(_short(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _has_dates(value: Any) -> bool:
    """Whether there are dates or times of TOML in the value, which a plan in JSON cannot hold."""
    if isinstance(value, dict):
        return any(map(_has_dates, value.values()))
    return any(map(_has_dates, value)) if isinstance(value, list | tuple) else isinstance(value, date | time)


def _complaint(hint: Any, value: Any) -> str:
    """A message like `"should be a number"`, or an empty string if the value has the right type."""
    if isinstance(value, float) and math.isnan(value):
        return "should be a number"
    if _has_dates(value):
        return "should have no dates or times; write them in quotes"
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
        try:
            adapter.validate_python(value)
        except ValidationError:
            adapter.validate_python(frozen(value))  # the option may be a tuple, which TOML and JSON do not have
    except (PydanticSchemaGenerationError, TypeError):
        return ""  # TOML cannot express this type, so it is checked when the choice is built
    except ValidationError as error:
        fault = error.errors()[0]
        return PLAIN.get(fault["type"], fault["msg"].removeprefix("Input "))
    return ""
