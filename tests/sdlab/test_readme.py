"""The README is short, and its Python and its sweep run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sdlab.cli import _status

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def shown(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", shown("python"), ids=lambda code: code.split("\n")[0][:40])
def test_its_python_runs(code: str):
    exec(code, {})


def test_its_sweep_is_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (sweep,) = shown("toml")
    (tmp_path / "my_sweep.toml").write_text(sweep, encoding="utf-8")
    assert _status(["sweep", str(tmp_path / "my_sweep.toml"), "--dry-run"]) == 0
    assert "24 cells" in capsys.readouterr().out


def test_it_answers_its_question_in_at_most_ten_rows():
    rows = [line for line in README.splitlines() if line.startswith("| ")]
    assert 3 <= len(rows) <= 12  # with the two of the head


def test_its_rows_are_those_of_the_full_table():
    """The short table shows fewer columns; every value of it is in the row of that cell in the result's page."""
    full = (Path(__file__).parents[2] / "docs/results/cfg_vs_steps.md").read_text(encoding="utf-8")
    for line in README.splitlines():
        if line.startswith("| ") and "±" in line:
            cells = line.strip("| ").split(" | ")
            (row,) = [row for row in full.splitlines() if row.startswith("| " + " | ".join(cells[:4]) + " |")]
            assert set(cells) <= set(row.strip("| ").split(" | ")), line
