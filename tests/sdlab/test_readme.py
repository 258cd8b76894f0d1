"""The README is short, and its Python and its sweep run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def shown(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", shown("python"), ids=lambda code: code.split("\n")[0][:40])
def test_its_python_runs(code: str):
    exec(code, {})


def test_its_sweep_is_a_sweep(tmp_path: Path):
    (sweep,) = shown("toml")
    (tmp_path / "my_sweep.toml").write_text(sweep, encoding="utf-8")
    command = [sys.executable, "-m", "sdlab.cli", "sweep", "my_sweep.toml", "--dry-run"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "24 cells" in result.stdout


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
