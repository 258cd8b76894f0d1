"""Certification of samplers by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

import samplers
from samplers.checks import unknown
from sdlab import plugins
from sdlab.certify.certificate import Certificate, certify
from sdlab.certify.page import write_page
from sdlab.certify.plot import plot_errors
from sdlab.certify.subjects import subjects
from sdlab.certify.table import faults, legend, table, write_json
from sdlab.system.console import line, show_table
from sdlab.system.errors import UsageError
from sdlab.system.files import make_folder

JSON, PLOT = "certificates.json", "certificates.png"
_FEW = 6  # up to this many samplers are measured in this process; starting others would take longer


def run(names: Sequence[str], out: Path, console: Console, page: Path | None = None) -> int:
    """Certify samplers by name (all by default) or `file.py:Class`; the exit status is 1 if a claim fails.

    Writes certificates.json and certificates.png into `out`, and with `page` the page on all samplers.

    Raises:
        UsageError: a name is unknown, or a file has no sampler.
        RunError: a file cannot be written.
    """
    plugins.discover()
    chosen = [_name(name) for name in dict.fromkeys(names)] or list(samplers.SAMPLERS)
    certificates: list[Certificate] = []
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("certifying", total=len(chosen))
        for done in _measured(chosen):
            certificates += done
            progress.advance(bar)
    show_table(console, table(certificates))
    console.print(legend(), style="dim", highlight=False)
    make_folder(out)
    write_json(certificates, out / JSON)
    plot_errors(certificates, out / PLOT)
    if page is not None:
        write_page(certificates, page)
    wrong = faults(certificates)
    for fault in wrong:
        line(console, fault, "red")
    verdict = f"{len(wrong)} claims fail" if wrong else "every claim holds"
    sets = f"{len(certificates)} option sets of {len(chosen)} sampler{'s' * (len(chosen) != 1)}"
    line(console, f"{sets}: {verdict}; see {out / JSON} and {out / PLOT}")
    return 1 if wrong else 0


def _name(name: str) -> str:
    """The name in the registry. A sampler from a file is registered first."""
    if plugins.is_path(name):
        plugins.add("sampler", name)
    if name not in samplers.SAMPLERS:
        raise UsageError(unknown("sampler", name, samplers.SAMPLERS))
    return name


def _measured(names: Sequence[str]) -> Iterator[list[Certificate]]:
    """The certificates per name, in order. Many built-in samplers are measured two at a time."""
    ours = [name for name in names if not plugins.is_custom("sampler", name)]
    if len(ours) <= _FEW:
        yield from map(certify_name, names)
        return
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        found = pool.map(certify_name, ours)
        for name in names:
            yield certify_name(name) if plugins.is_custom("sampler", name) else next(found)


def certify_name(name: str) -> list[Certificate]:
    """The certificates of a sampler with its default options and with all variations."""
    return [certify(subject) for subject in subjects(name)]
