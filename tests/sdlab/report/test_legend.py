"""A table explains the columns that it shows, and no others."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from sdlab.report.markdown import markdown
from sdlab.report.stored_run import opened_run
from sdlab.report.terminal import print_table
from sdlab.report.view import View

SHARE, PASSES = "net %: share of the time", "passes: network passes per image"


@pytest.fixture
def directory(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sdlab.report.run_report._files", lambda *_: ())
    run()
    return tmp_path / "runs" / "quick"


@pytest.mark.parametrize(
    ("options", "explained"),
    [
        ({}, [SHARE, PASSES]),
        ({"columns": "sampler,steps,fid,passes"}, [PASSES]),
        ({"columns": "sampler,steps,fid"}, []),
        ({"pivot": "steps x scale", "value": "network_share"}, [SHARE]),
        ({"pivot": "steps x scale", "value": "fid"}, []),
    ],
)
def test_only_the_columns_that_are_shown_are_explained(directory: Path, options: dict[str, str], explained: list[str]):
    with opened_run(directory) as stored:
        text = markdown(View(**options).of(stored))  # type: ignore[arg-type]
    assert [words for words in (SHARE, PASSES) if words in text] == explained


def test_a_column_that_a_terminal_leaves_out_is_not_explained(directory: Path):
    with opened_run(directory) as stored:
        table = View().of(stored)
    texts = []
    for width in (200, 60):
        out = io.StringIO()
        print_table(Console(file=out, width=width, force_terminal=True, color_system=None), table)
        texts.append(" ".join(out.getvalue().split()))
    assert SHARE in texts[0]
    assert "net %" in texts[1].partition("Left out at this width: ")[2].partition(". ")[0]
    assert SHARE not in texts[1]
