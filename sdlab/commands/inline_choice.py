"""A sampler, grid or guidance strategy with its options, as one argument of the command line."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from sdlab.registry import Registry
from sdlab.system.errors import UsageError

_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|\[[^]]*]|{[^}]*}|\S)+""")  # quotes and brackets may hold spaces


def parse_choice(text: str) -> tuple[str, dict[str, Any]]:
    """`"cfg_interval scale=5 sigma_low=0.3"` as a name and its options.

    Values are written as in TOML. A string needs quotes only if it has spaces or looks like a number.

    Raises:
        ValueError: there is no name, an option is not of the form key=value, or is given twice.
    """
    words = _WORD.findall(text)
    if not words:
        raise ValueError(f"expected a name, like euler, got {text!r}")
    options: dict[str, Any] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not (key.isidentifier() and equals and value):
            raise ValueError(f"options are written key=value, without spaces; got {word!r} in {text!r}")
        if key in options:
            raise ValueError(f"option {key!r} is given twice in {text!r}")
        options[key] = _value(value)
    return str(_value(words[0])), options


def build_choice(registry: Registry, text: str, **supplied: Any) -> Any:
    """Build the choice that an option of the command line gives, on top of `supplied`; custom files are loaded.

    Raises:
        UsageError: the text, its name, an option or a value is wrong. The message has one line per mistake.
    """
    option = f"--{registry.kind}"
    try:
        name, options = parse_choice(text)
        if wrong := registry.mistakes(name, options, build=False):
            lines = [f"{option}: {f'{key}: {message}' if key in options else message}" for key, message in wrong]
            raise UsageError("\n".join(lines))
        return registry.build(name, **supplied, **options)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{option}: {error}") from None


def _value(text: str) -> Any:
    """The value in TOML; other text as it is."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, bool | int | float | str | list | dict) else text
