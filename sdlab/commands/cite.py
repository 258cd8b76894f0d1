"""`sdlab cite RUN`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sdlab.commands.paths import path_argument

EXAMPLE = "sdlab cite runs/cfg_vs_steps --part bibtex > sdlab.bib"


class Part(StrEnum):
    """The parts that `sdlab cite` prints."""

    card = "card"
    footnote = "footnote"
    bibtex = "bibtex"
    model_index = "model-index"


def command(
    run: Annotated[Path, path_argument("a run directory")],
    part: Annotated[Part | None, typer.Option(help="only this part; by default all of them")] = None,
) -> None:
    """Print what a paper or a model card should say about a run.

    The parts are a protocol card, the same as a LaTeX footnote, BibTeX of the samplers, grids, guidance and metrics
    used, and a model-index for a model card.
    """
    from sdlab.report import protocol
    from sdlab.report.model_index import model_index, yaml_text
    from sdlab.report.stored_run import opened_run
    from sdlab.system.output import remark

    with opened_run(run) as opened:
        parts: dict[Part, Callable[[], str]] = {
            Part.card: lambda: "\n".join(protocol.card(opened)),
            Part.footnote: lambda: protocol.footnote(opened),
            Part.bibtex: lambda: protocol.bibliography(opened),
            Part.model_index: lambda: yaml_text(model_index(opened)),
        }
        texts = {name: make() for name, make in parts.items() if part in (None, name)}
        custom = protocol.without_source(opened)
    if custom:
        remark(f"note: cite the sources of custom code yourself: {', '.join(custom)}")
    print("\n\n".join(text if part else f"# {name}\n\n{text}" for name, text in texts.items()))
