"""Certification of guidance strategies by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

import sdlab
from sdlab.certify.several import measured, registered, verdict
from sdlab.certify.strategies.certificate import StrategyCertificate, certify
from sdlab.system.console import line, show_table
from sdlab.system.files import check_writable, make_folder, replacing
from sdlab.system.text import shown

JSON = "guidance.json"
_FEW = 3  # up to this many strategies are measured in this process; starting others would take longer
_WORDS = {True: "[green]holds[/]", False: "[red]fails[/]", None: "–"}


def run(names: Sequence[str], out: Path, console: Console) -> int:
    """Certify guidance strategies by name (all by default) or `file.py:Class`; the exit status is 1 if a claim fails.

    Writes guidance.json into `out`.

    Raises:
        UsageError: a name is unknown, or a file has no strategy.
        RunError: the file cannot be written.
    """
    chosen = registered("guidance", names)
    make_folder(out)
    check_writable(out / JSON)
    certificates = measured("guidance", chosen, certify, _FEW, console)
    show_table(console, table(certificates))
    _write(certificates, out / JSON)
    faults = [f"{one.name}: {check.name}: {check.detail}" for one in certificates for check in one.faults]
    for fault in faults:
        line(console, fault, "red")
    count = f"{len(chosen)} guidance {'strategies' if len(chosen) != 1 else 'strategy'}"
    line(console, f"{count}: {verdict(len(faults))}; see {out / JSON}")
    return 1 if faults else 0


def table(certificates: Sequence[StrategyCertificate]) -> Table:
    """One row per strategy and one column per check; – is a claim that the strategy does not make."""
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    found.add_column("strategy", no_wrap=True)
    for check in certificates[0].checks:
        found.add_column(check.name)
    for one in certificates:
        found.add_row(Text(shown(one.name)), *(_WORDS[check.ok] for check in one.checks))
    return found


def _write(certificates: Sequence[StrategyCertificate], path: Path) -> None:
    content = {"sdlab": sdlab.__version__, "certificates": [one.as_dict() for one in certificates]}
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
