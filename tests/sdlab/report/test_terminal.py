"""In a terminal a table fits its width and cuts nothing; in a pipe every line is whole."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_bench import TOML
from rich.console import Console

from sdlab.report.columns import Column, Field, Table
from sdlab.report.run_report import report
from sdlab.report.stored_run import opened_run
from sdlab.report.table import make_table
from sdlab.report.terminal import print_table

LONG = "a_sampler_with_a_name_of_more_than_twenty_four_letters with=many more=options and=others"


def printed(directory: Path, width: int, terminal: bool = True) -> str:
    out = io.StringIO()
    report(directory, Console(file=out, width=width, force_terminal=terminal, color_system=None))
    return out.getvalue()


@pytest.fixture
def directory(finished: Callable[..., Path], no_files: None) -> Path:
    return finished()


def test_every_line_fits_80_columns_and_what_is_left_out_is_named(directory: Path):
    out = printed(directory, 80)
    assert max(len(line) for line in out.splitlines() if not line.startswith("report: ")) <= 80  # a path stays whole
    head = out.partition("\n──")[0]
    gone = re.search(r"Left out at this width: (.*)\.\n", out)
    columns = [
        "sampler",
        "guidance",
        "steps",
        "passes",
        "FID (lab)",
        "CLIP score",
        "s/image",
        "IQR",
        "ms/pass",
        "net %",
    ]
    words = head.split()
    missing = [name for name in columns if not all(word in words for word in name.split())]
    assert (gone[1].split(", ") if gone else []) == missing


def test_costs_are_left_out_before_errors_and_these_before_metrics(directory: Path):
    with opened_run(directory) as run:
        table = make_table(run.plan, run.rows, run.real)

    def gone(width: int) -> list[str]:
        out = io.StringIO()
        print_table(Console(file=out, width=width, force_terminal=True, color_system=None), table)
        found = re.search(r"Left out at this width: ([^.]*)\.", " ".join(out.getvalue().split()))
        return found[1].split(", ") if found else []

    assert gone(120) == []
    seen = [gone(width) for width in range(119, 30, -1)]
    costs, errors = ["net %"], ["s/image", "IQR", "ms/pass", "net %", "standard errors"]
    assert next(one for one in seen if one) == costs
    assert errors in seen
    assert seen[-1] == ["passes", "FID (lab) ↓", "CLIP score ↑", *errors]
    assert all(len(one) <= len(more) for one, more in itertools.pairwise(seen))


@pytest.mark.parametrize("width", [1, 20, 60, 80, 100])
def test_no_name_and_no_number_is_cut_or_wrapped(width: int, directory: Path):
    whole = printed(directory, 200)
    table = printed(directory, width).partition("\nmodel")[0].partition("\nLeft")[0]
    known = {*whole.split(), *(word.partition("±")[0] for word in whole.split())}
    rows = [line for line in table.splitlines() if line.startswith(("ddim", "heun"))]
    assert len(rows) == 8
    assert all(word in known for line in rows for word in line.split())
    marked = [line for line in rows if "★" in line or "≈" in line]
    assert all(re.search(r"\d [★≈]", line) for line in marked)  # a mark stays beside its number


def test_in_a_pipe_lines_are_whole(directory: Path):
    narrow, wide = (printed(directory, width, terminal=False) for width in (20, 500))
    assert narrow == wide
    assert "Left out" not in narrow
    assert any(line.startswith("★ best") and line.endswith("higher is better.") for line in narrow.splitlines())


def test_long_names_fold_between_words_in_a_terminal_and_are_whole_in_a_pipe():
    names = Column("sampler", "sampler", (LONG,), (Field(LONG),), left=True)
    values = Column("fid", "FID", (1.25,), (Field("1.25", "★", "±.50"),))
    out = {}
    for terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, width=70, force_terminal=terminal, color_system=None)
        print_table(console, Table("t", (names, values), ()))
        out[terminal] = file.getvalue()
    assert f"{LONG} 1.25±.50 ★" in out[False]
    lines = out[True].splitlines()
    assert max(map(len, lines)) <= 70
    assert set(LONG.split()) <= set(out[True].split())


def test_cells_of_a_dry_run_are_whole_in_a_pipe(run: Callable[..., tuple[int, str, list[str]]]):
    levels = [round(14.6 * 0.8**i, 5) for i in range(30)]
    grid = f'{{ name = "explicit", sigmas = {levels} }}'
    extra = f'[[extra]]\nsampler = "ddim"\nguidance = "none"\nsteps = 30\ngrid = {grid}\n'
    out = run(toml=TOML + extra, dry_run=True)[1]
    (line,) = [line for line in out.splitlines() if "explicit" in line]
    assert "30 steps" in line
