"""Certification of samplers by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sdlab.certify.certificate import Certificate, certify
from sdlab.certify.page import write_page
from sdlab.certify.plot import plot_errors
from sdlab.certify.several import measured, registered, verdict
from sdlab.certify.subjects import subjects
from sdlab.certify.table import faults, legend, table, write_json
from sdlab.system.console import line, show_table
from sdlab.system.files import check_writable, make_folder

JSON, PLOT = "certificates.json", "certificates.png"
_FEW = 6  # up to this many samplers are measured in this process; starting others would take longer


def run(names: Sequence[str], out: Path, console: Console, page: Path | None = None) -> int:
    """Certify samplers by name (all by default) or `file.py:Class`; the exit status is 1 if a claim fails.

    Writes certificates.json and certificates.png into `out`, and with `page` the page on all samplers.

    Raises:
        UsageError: a name is unknown, or a file has no sampler.
        RunError: a file cannot be written.
    """
    chosen = registered("sampler", names)
    make_folder(out)
    for path in filter(None, (out / JSON, page)):
        check_writable(path)
    certificates = [one for several in measured("sampler", chosen, certify_name, _FEW, console) for one in several]
    show_table(console, table(certificates))
    console.print(legend(), style="dim", highlight=False)
    write_json(certificates, out / JSON)
    plot_errors(certificates, out / PLOT)
    if page is not None:
        write_page(certificates, page)
    wrong = faults(certificates)
    for fault in wrong:
        line(console, fault, "red")
    sets = f"{len(certificates)} option sets of {len(chosen)} sampler{'s' * (len(chosen) != 1)}"
    line(console, f"{sets}: {verdict(len(wrong))}; see {out / JSON} and {out / PLOT}")
    return 1 if wrong else 0


def certify_name(name: str) -> list[Certificate]:
    """The certificates of a sampler with its default options and with all variations."""
    return [certify(subject) for subject in subjects(name)]
