"""A sampler, grid or guidance strategy with its options, as one argument of the command line."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from samplers.checks import unknown
from sdlab import plugins
from sdlab.registry import Registry, frozen
from sdlab.system.errors import UsageError
from sdlab.system.paths import user_path

_QUOTED = r"""(?:"[^"]*"|'[^']*'|\[(?:[^][]|\[[^]]*])*]|{[^}]*}|"""  # these may contain spaces and commas
_WORD, _PART = re.compile(_QUOTED + r"\S)+"), re.compile(_QUOTED + r"[^,])+")


def parse_choice(text: str) -> tuple[str, dict[str, Any]]:
    """Parse a choice like `"apg:eta=0,norm=2.5"` or `"apg eta=0 norm=2.5"` into its name and options.

    Values are written as in TOML. A string needs quotes only if it has spaces or looks like a number.

    Raises:
        ValueError: the name is missing, or an option is not of the form key=value or is given twice.
    """
    words = _WORD.findall(text)
    if not words:
        raise ValueError(f"expected a name, like euler, got {text!r}")
    if isinstance(_value(words[0]), list):
        raise ValueError(f"expected a name, with wrappers as options like cfg:interval=[0.3,5], got {text!r}")
    head = str(_value(words[0]))
    name = ":".join(head.split(":")[: 2 if plugins.is_path(head) else 1])
    options: dict[str, Any] = {}
    for word in (*_PART.findall(head[len(name) + 1 :]), *words[1:]):
        key, equals, value = word.partition("=")
        if not (key.isidentifier() and equals and value):
            raise ValueError(f"options are written key=value, without spaces; got {word!r} in {text!r}")
        if key in options:
            raise ValueError(f"option {key!r} is given twice in {text!r}")
        options[key] = _value(value)
    return name, options


def absolute_choice(text: str) -> str:
    """The text with the absolute path of its file, if its name is like my_sampler.py:MySampler."""
    if (first := _WORD.search(text)) is None or not plugins.is_path(name := str(_value(first[0]))):
        return text
    file, colon, entry = name.partition(":")
    path = str(user_path(file).absolute()) + colon + entry
    return (path if path.split() == [path] else f'"{path}"') + text[first.end() :]


def build_choice(registry: Registry, text: str, **supplied: Any) -> Any:
    """Build the choice in a command-line option, with `supplied` as further arguments. Loads custom files.

    Raises:
        UsageError: the text, its name, an option or a value is invalid. The message has one line per mistake.
    """
    option = f"--{registry.kind}"
    try:
        name, given = _known_choice(registry, text)
        options = {key: frozen(value) for key, value in given.items()}
        if wrong := registry.mistakes(name, options, build=False):
            lines = [f"{option}: {f'{key}: {message}' if key in options else message}" for key, message in wrong]
            raise UsageError(*lines)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
    try:
        return registry.build(name, **supplied, **options)
    except (ValueError, TypeError) as error:
        raise UsageError(": ".join(filter(None, (option, *registry.placed(name, str(error)))))) from None


def _known_choice(registry: Registry, text: str) -> tuple[str, dict[str, Any]]:
    """Parse a choice. A name of another tool, which may have spaces, is reported as a whole."""
    try:
        return parse_choice(text)
    except ValueError:
        first = re.split(r"[\s:]", text.strip())[0]
        if not first or first.startswith("[") or first in registry.known or plugins.is_path(text):
            raise
        raise ValueError(unknown(registry.kind, text, registry.known)) from None


def _value(text: str) -> Any:
    """The text as a TOML value, or the text itself if it is not one."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # it is not TOML, has thousands of digits, or is nested too deeply
        return text
    return value if isinstance(value, bool | int | float | str | list | dict) else text
