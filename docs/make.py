"""The parts of the documentation that are made from the code: `make docs` writes them, and a test compares.

A page holds its made part between two comments, `<!-- made by docs/make.py -->` and `<!-- end -->`.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

BEGIN, END = "<!-- made by docs/make.py -->", "<!-- end -->"


def entries(registry: Mapping[str, Callable[..., object]], given: tuple[str, ...] = ()) -> str:
    """A summary and a section for each name: what its docstring says, and its options without those `given` anyway."""
    names = sorted(registry)
    lines = ["| name | what it is |", "| :-- | :-- |"]
    for name in names:
        first = _docstring(registry[name]).partition("\n")[0].replace("|", "\\|")
        lines.append(f"| [`{name}`](#{name}) | {first} |")
    for name in names:
        lines += ["", f"### `{name}`", "", _docstring(registry[name]), "", _options(registry[name], given)]
    return "\n".join(lines)


def _docstring(entry: Callable[..., object]) -> str:
    """The docstring as Markdown: equations are code, and `Raises:` is left to `help()`."""
    text = re.sub(r"\n\n?(Raises|Args|Returns):\n(?:    .*\n?|\n)*", "\n", (inspect.getdoc(entry) or "") + "\n")
    return text.strip()


def _options(entry: Callable[..., object], given: tuple[str, ...]) -> str:
    options = [
        f"`{name} = {_value(parameter.default)}`"
        for name, parameter in inspect.signature(entry).parameters.items()
        if name not in given
    ]
    return f"Options: {', '.join(options)}" if options else "No options."


def _value(default: object) -> str:
    """A default as it is written in TOML."""
    if default is None:
        return "not given"
    if isinstance(default, str):
        return f'"{default}"'
    if isinstance(default, tuple):
        return f"[{', '.join(map(_value, default))}]"
    return repr(default)


def grids() -> str:
    """The grids of the registry."""
    from samplers import GRIDS

    return entries(GRIDS, given=("steps", "levels"))


def guidance() -> str:
    """The guidance strategies of the registry."""
    from sdlab.guidance import GUIDANCE

    return entries(GUIDANCE)


PARTS: dict[str, Callable[[], str]] = {
    "grids.md": grids,
    "guidance.md": guidance,
}


def made(page: str, part: str) -> str:
    """The page with its made part replaced.

    Raises:
        ValueError: the page has no place for it.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{after}"


def main() -> None:
    """Write all pages."""
    for name, part in PARTS.items():
        page = DOCS / name
        page.write_text(made(page.read_text(encoding="utf-8"), part()), encoding="utf-8")


if __name__ == "__main__":
    main()
