"""The parts of the documentation that are generated from the code. `make docs` writes them, and a test compares.

A page holds its made part between two comments, `<!-- made by docs/make.py -->` and `<!-- end -->`.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

import pays  # noqa: E402
import planes  # noqa: E402

CERTIFICATES = "guidance.json"  # written by `sdlab certify guidance --out docs`
BEGIN, END = "<!-- made by docs/make.py -->", "<!-- end -->"


def entries(
    registry: Mapping[str, Callable[..., object]],
    given: tuple[str, ...] = (),
    more: Callable[[str], str] = lambda name: "",
) -> str:
    """A summary, and a section per name with its docstring and its options, except those `given` by the caller.

    `more` returns what ends the section of a name.
    """
    names = sorted(registry)
    lines = ["| name | what it is |", "| :-- | :-- |"]
    for name in names:
        first = _docstring(registry[name]).partition("\n")[0].replace("|", "\\|")
        lines.append(f"| [`{name}`](#{name}) | {first} |")
    for name in names:
        lines += ["", f"### `{name}`", "", _docstring(registry[name]), "", _options(registry[name], given)]
        lines += ["", last] if (last := more(name)) else []
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

    return entries(GUIDANCE, more=_guidance_facts)


def _guidance_facts(name: str) -> str:
    """What a strategy costs, its certificate, when it pays, and its picture."""
    certificates = json.loads((DOCS / CERTIFICATES).read_text(encoding="utf-8"))["certificates"]
    checks = next((one["checks"] for one in certificates if one["name"] == name), [])
    held = {check["name"]: check["detail"] for check in checks if check["ok"]}
    cost = held.pop("passes", "not measured")
    certificate = "; ".join(f"*{check}*, {detail}" for check, detail in held.items()) or "none yet"
    facts = {"Cost": f"{cost}.", "Certificate": f"{certificate}.", "When it pays": pays.when(name)}
    return "\n\n".join([*(f"**{heading}:** {text}" for heading, text in facts.items()), _picture(name)])


def _picture(name: str) -> str:
    """The picture of a strategy on the class mixture, or why it has none."""
    if why := planes.why_not(name):
        return f"No picture: {why}."
    given = ", ".join(f"`{key} = {_value(value)}`" for key, value in planes.options(name).items())
    settings = f" with {given}" if given else ""
    return f"On the class mixture{settings}:\n\n![Paths and samples of {name}](guidance/{name}.png)"


def metrics() -> str:
    """The metrics of the registry."""
    from sdlab.metrics import METRICS
    from sdlab.metrics.base import ARROWS

    lines = ["| name | what it is |", "| :-- | :-- |"]
    lines += [f"| [`{name}`](#{name}) | {metric.about} |" for name, metric in sorted(METRICS.items())]
    for name, metric in sorted(METRICS.items()):
        arrow = f"{ARROWS[metric.better]} ({metric.better} is better)"
        kind = f"One value {'per image' if metric.per_image else 'for the whole set'}."
        facts = f"In tables: {metric.label} {arrow}. {kind} Needs {', '.join(sorted(metric.needs))}."
        lines += ["", f"### `{name}`", "", _docstring(type(metric)), "", facts]
    return "\n".join(lines)


def models() -> str:
    """The exact models."""
    from sdlab.backends.exact_models import MODELS

    lines = ["| model | what it is | options |", "| :-- | :-- | :-- |"]
    for name, build in sorted(MODELS.items()):
        options = _options(build, ()).removeprefix("Options: ")
        lines.append(f"| `{name}` | {_docstring(build).partition(chr(10))[0]} | {options} |")
    return "\n".join(lines)


def sweep_files() -> str:
    """The keys of a sweep file, from the pydantic models that check it."""
    from sdlab.metrics import MetricFiles
    from sdlab.sweep.document import Cells, Document, Exclude, Extra, Image, Prompts, Until

    tables = {
        "`images` as a table": Until,
        "`[prompts]`": Prompts,
        "`[image]`": Image,
        "`[cells]`": Cells,
        "`[[exclude]]`": Exclude,
    }
    tables |= {"`[[extra]]`": Extra, "`[metric_files]`": MetricFiles}
    lines = ["### Top level", "", *_keys(Document, list(Document.model_fields))]
    for heading, table in tables.items():
        about = _docstring(table).removeprefix(f"{heading}: ")
        lines += ["", f"### {heading}", "", about[0].upper() + about[1:], ""]
        lines += _keys(table, list(table.model_fields), like=Cells)
    return "\n".join(lines)


def search() -> str:
    """The keys of `[search]`."""
    from sdlab.search.document import Search

    return "\n".join(["### `[search]`", "", *_keys(Search, list(Search.model_fields))])


def training() -> str:
    """The configuration keys that training stages share, and those of each stage."""
    from sdlab.train.captioned_config import CaptionedTraining
    from sdlab.train.config import Training
    from sdlab.train.stages import STAGES

    shared = list(Training.model_fields)
    lines = ["### All stages", "", *_keys(Training, shared)]
    captioned = [key for key in CaptionedTraining.model_fields if key not in shared]
    users = ", ".join(f"`{name}`" for name, kind in STAGES.items() if issubclass(kind, CaptionedTraining))
    lines += ["", f"### Your own pictures: {users}", "", *_keys(CaptionedTraining, captioned)]
    shared += captioned
    for name, kind in STAGES.items():
        own = [key for key in kind.model_fields if key not in shared]
        lines += ["", f"### `{name}`", "", _docstring(kind), ""]
        lines += _keys(kind, own) if own else ["It has no keys of its own."]
        for key in own:
            for table in _tables(kind.model_fields[key].annotation):
                heading, _, about = _docstring(table).partition(": ")
                lines += ["", f"#### {heading}", "", about[0].upper() + about[1:], ""]
                lines += _keys(table, list(table.model_fields))
    return "\n".join(lines)


def _keys(table: type[BaseModel], names: list[str], like: type[BaseModel] | None = None) -> list[str]:
    """A table of keys that a pydantic model checks. A key without a description has that of the model `like`."""
    lines = ["| key | values | default | meaning |", "| :-- | :-- | :-- | :-- |"]
    for name in names:
        field = table.model_fields[name]
        values = _values(field.annotation, tuple(field.metadata))
        default = "required" if field.is_required() else _default(field.default)
        meaning = field.description or (like.model_fields[name].description if like else None)
        if meaning is None:
            raise ValueError(f"{table.__name__}.{name} has no description")
        lines.append(f"| `{field.alias or name}` | {values} | {default} | {' '.join(meaning.split())} |")
    return lines


def _tables(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models of a key that is a table, of one kind or several."""
    kinds = typing.get_args(annotation) or (annotation,)
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _values(annotation: Any, metadata: tuple[object, ...] = ()) -> str:
    """The values of a field, in words."""
    metadata = tuple(one for item in metadata for one in (item.metadata if isinstance(item, FieldInfo) else [item]))
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _values(arguments[0], (*arguments[1:], *metadata))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_values(one, metadata) for one in arguments if one is not NoneType))
    if origin is list:
        one, many = _values(arguments[0]), any(isinstance(item, BeforeValidator) for item in metadata)
        return f"{one}, or a list" if many else f"list of {one}s"
    if origin is Literal:
        return ", ".join(f'`"{value}"`' for value in arguments)
    bounds = " and ".join(filter(None, map(_bound, metadata)))
    return f"{_word(annotation)} {bounds}".strip()


def _word(kind: type) -> str:
    from sdlab.backends.base import Opened
    from sdlab.sweep.cell import Choice

    words = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
    words |= {Choice: "choice", Opened: "model"}
    return words.get(kind) or ("table" if issubclass(kind, BaseModel) else kind.__name__.lower())


def _bound(item: object) -> str:
    match item:
        case Ge(ge=low):
            return f"≥ {low}"
        case Gt(gt=low):
            return f"> {low}"
        case Le(le=high):
            return f"≤ {int(high) if high == int(high) else high}"
        case Lt(lt=high):
            return f"< {'2^62' if high == 2**62 else high}"
    return ""


def _default(default: Any) -> str:
    from sdlab.sweep.cell import Choice

    if isinstance(default, list) and len(default) == 1:
        return _default(default[0])
    if isinstance(default, Choice):
        return f'`"{default.name}"`'
    if isinstance(default, BaseModel) or default is None or default == []:
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{_value(default)}`"


PARTS: dict[str, Callable[[], str]] = {
    "grids.md": grids,
    "guidance.md": guidance,
    "metrics.md": metrics,
    "models.md": models,
    "search.md": search,
    "sweep-files.md": sweep_files,
    "training.md": training,
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
    """Write all pages and pictures."""
    for name, part in PARTS.items():
        page = DOCS / name
        page.write_text(made(page.read_text(encoding="utf-8"), part()), encoding="utf-8")
    planes.write()


if __name__ == "__main__":
    main()
