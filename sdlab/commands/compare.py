"""`sdlab compare RUN RUN…`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdlab.commands.paths import path_argument

EXAMPLE = "sdlab compare runs/before runs/after --fail-if worse"


def command(
    runs: Annotated[list[Path], path_argument("run directories; the others are compared with the first")],
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<gate>", help='exit with status 1 if a value is worse, changed or missing, or "fid>0.5" worse'
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option(metavar="<name>", help="table, md, csv, json, parquet, latex or html, on stdout")
    ] = None,
) -> None:
    """Compare equal cells of several runs, and mark what changed beyond noise.

    The runs may differ in the model, the machine or the version of sdlab. Differences are paired image by image if the
    runs share their seeds and prompts.
    """
    from contextlib import ExitStack

    from rich.console import Console

    from sdlab.report.compare import Gate, compare
    from sdlab.report.stored_run import opened_run
    from sdlab.report.view import check_format, print_as
    from sdlab.system.errors import RunError, UsageError

    if len(runs) < 2:
        raise UsageError("sdlab compare: name two run directories or more")
    gates, form = [Gate.of(text) for text in fail_if or ()], check_format(format)
    short = [path.name for path in runs]
    names = short if len(set(short)) == len(short) else [str(path) for path in runs]
    with ExitStack() as stack:
        opened = [stack.enter_context(opened_run(path)) for path in runs]
        found = compare(list(zip(names, opened, strict=True)))
    failures = found.failures(gates)
    print_as(form, found.table, Console(), "comparison")
    if failures:
        raise RunError(*failures)
