"""The reference page of all samplers, with equation, source, options, certificate and paths."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import samplers
from sdlab.certify.accuracy import PASSES, floor
from sdlab.certify.certificate import Certificate
from sdlab.certify.orders import STEEP_ERROR, STEEP_SAMPLES, STEEP_STEPS
from sdlab.certify.plot import plot_errors, plot_paths
from sdlab.certify.subjects import FAMILIES, OTHER
from sdlab.certify.table import order_text, percent
from sdlab.system.files import make_folder, replacing

PICTURES, ERRORS = "samplers", "errors.png"  # the folder beside the page, and the overview plot in it

_HOSTS = {"arXiv": "arxiv.org/abs", "doi": "doi.org"}
_HEAD = Path(__file__).with_name("page_head.md")


def write_page(certificates: Sequence[Certificate], path: Path) -> None:
    """Write the page at `path`, and its pictures to a folder `samplers` beside it.

    Raises:
        RunError: a file cannot be written.
    """
    pictures = path.parent / PICTURES
    make_folder(pictures)
    plain = [one for one in certificates if not one.options and one.name in samplers.SAMPLERS]
    plot_errors(plain, pictures / ERRORS)
    head = _HEAD.read_text(encoding="utf-8").format(
        floor=100 * floor(),
        pictures=PICTURES,
        errors=ERRORS,
        samples=STEEP_SAMPLES,
        steps=STEEP_STEPS,
        within=STEEP_ERROR,
    )
    lines = [head, *_overview(plain)]
    for family in (*FAMILIES, OTHER):
        ours = [one for one in plain if one.family == family]
        if ours:
            picture = f"{PICTURES}/{_slug(family)}.png"
            plot_paths([one.name for one in ours], path.parent / picture)
            lines += _family(family, ours, certificates, picture)
    with replacing(path) as draft:
        draft.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _overview(plain: Sequence[Certificate]) -> Iterator[str]:
    yield "| sampler | claims | order | on paths | " + " | ".join(f"{n} passes" for n in PASSES) + " | states |"
    yield "|---|--:|--:|--:|" + "--:|" * len(PASSES) + "--:|"
    for one in plain:
        errors = {a.budget: percent(a) for a in one.accuracy}
        cells = [
            f"[{one.name}](#{one.name})",
            str(one.claimed) if one.claimed > 0 else "none",
            order_text(one.orders),
            one.orders.strong.text if one.orders.strong else "",
            *(errors.get(passes, "–") for passes in PASSES),
            str(one.memory),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _family(title: str, ours: Sequence[Certificate], all_: Sequence[Certificate], picture: str) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"![Their paths on the mixture in eight steps, over the exact flow in grey]({picture})\n"
    for one in ours:
        kind = samplers.SAMPLERS[one.name]
        yield f"### {one.name}\n"
        yield from _docstring(kind)
        options = [f for f in dataclasses.fields(kind) if f.init and f.name != "levels"]  # type: ignore[arg-type]
        code = f"Code: `{kind.__module__.replace('.', '/')}.py`."
        if options:
            code = f"Options: {', '.join(f'`{f.name} = {_default(f)}`' for f in options)}. {code}"
        yield f"{code}\n"
        yield from _certificate(one, [other for other in all_ if other.name == one.name and other.options])


def _docstring(kind: type) -> Iterator[str]:
    """The docstring of the class: prose as paragraphs with links to the papers, equations as blocks of code."""
    for paragraph in (inspect.getdoc(kind) or "").split("\n\n"):
        if paragraph.startswith("Raises:"):
            yield f"Raises {_linked(paragraph.removeprefix('Raises:'))}\n"
            continue
        for indented, lines in groupby(paragraph.splitlines(), lambda line: line.startswith("    ")):
            text = "\n".join(lines)
            yield f"```\n{textwrap.dedent(text)}\n```\n" if indented else f"{_linked(text)}\n"


def _linked(text: str) -> str:
    return re.sub(
        r"\b(arXiv|doi):([^\s,;)]+)", lambda m: f"[{m[0]}](https://{_HOSTS[m[1]]}/{m[2]})", " ".join(text.split())
    )


def _certificate(one: Certificate, others: Sequence[Certificate]) -> Iterator[str]:
    kind = "stochastic" if one.stochastic else "deterministic"
    claim = f"order {one.claimed}" if one.claimed > 0 else "no order"
    yield f"| {kind}, claims {claim} | order measured | holds |"
    yield "|---|---|---|"
    for row in (one, *others):
        label = row.label if row.options else "default options"
        yield f"| {label} | {_orders(row)} | {'yes' if row.ok else '**no**'} |"
    yield ""
    for row in (one, *others):
        for fault in row.faults:
            yield f"- **{row.label}: {fault.name}**: {fault.detail}"


def _orders(one: Certificate) -> str:
    parts = [f"{name} {fit.text}" for name, fit in one.orders.path.items()]
    parts += [f"{name} {fit.text} with full memory" for name, fit in one.orders.full.items()]
    parts += [f"{name} {fit.text}" for name, fit in one.orders.weak.items()]
    if one.orders.strong is not None:
        parts.append(f"on paths {one.orders.strong.text}")
    if one.orders.steep is not None and one.orders.steep > STEEP_ERROR:
        parts.append(f"steep off by {one.orders.steep:.0%}")
    return ", ".join(parts) or "–"


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    return "∞" if value == math.inf else f"{value:.4g}" if isinstance(value, float) else str(value)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower().replace("σ", "sigma")).strip("-")
