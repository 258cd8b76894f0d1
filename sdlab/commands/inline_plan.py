"""A sweep of one model from the options of a command, for the commands that follow its paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdlab.system.errors import UsageError

if TYPE_CHECKING:
    from sdlab.sweep.plan import Plan

_REFERENCE_STEPS = 100  # of the fine run that grids are compared with


def inline_plan(
    command: str,
    name: str,
    given: Mapping[str, Any],
    cells: Mapping[str, Any],
    choices: Mapping[str, str],
    prompts: str | None,
) -> tuple[Plan, dict[str, Any]]:
    """The plan, and its table of prompts.

    Args:
        command: as the user typed it, like "sdlab grid".
        name: of the sweep.
        given: its top-level values.
        cells: values of its cells that are not choices.
        choices: of the sampler and the guidance, as on the command line.
        prompts: a set, or a file.

    Raises:
        UsageError: there are mistakes, one line for each.
    """
    from sdlab.commands.inline_choice import parse_choice
    from sdlab.sweep.plan import plan_of
    from sdlab.sweep.prompts import PROMPT_SETS

    chosen_cells = dict(cells)
    for axis, text in choices.items():
        try:
            chosen, options = parse_choice(text)
        except ValueError as error:
            raise UsageError(f"--{axis}: {error}") from None
        chosen_cells[axis] = {"name": chosen, **options}
    model = given["model"]
    source = prompts or (model if model in PROMPT_SETS else None)
    table: dict[str, Any] = {} if source is None else {"set" if source in PROMPT_SETS else "file": source}
    settings = {"metrics": ["reference_error"], "reference_steps": _REFERENCE_STEPS, "cells": chosen_cells}
    raw = {"name": name, **given, **settings, **({"prompts": table} if table else {})}
    try:
        return plan_of(Path(command), raw, given), table
    except UsageError as error:
        raise UsageError(*(_with_options(command, text) for text in error.args)) from None


def _with_options(command: str, text: str) -> str:
    """A message with the options of the command in place of the keys of a sweep file."""
    if text.startswith(f"{command}: prompts: missing"):
        return "--prompts: missing; name a set of prompts, like scenes, or a text file of them"
    for axis in ("sampler", "guidance", "steps"):
        for key in (f"{axis}[0].name", f"{axis}[0]", f"{axis}.name", axis):
            text = text.replace(f"{command}: cells.{key}", f"--{axis}")
    return text.replace(f"{command}: prompts.file", "--prompts").replace(f"{command}: prompts.set", "--prompts")
