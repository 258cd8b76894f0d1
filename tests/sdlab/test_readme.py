"""What the README shows is run: its Python, its sweep, and rules of one's own in one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

SWEEP = """
model = "scenes"
images = 2
batch = 2
metrics = ["clip_score"]

[prompts]
set = "scenes"
count = 2

[cells]
sampler = "euler"
steps = 2
grid = { path = "my_rules.py:squared", power = 3.0 }
guidance = { path = "my_rules.py:Fading", scale = 5.0 }
"""


def shown(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def sdlab(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "sdlab.cli", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("code", shown("python"), ids=lambda code: code.split("\n")[3][:40])
def test_its_python_runs(code: str):
    exec(code, {})


def test_its_sweep_is_a_sweep(tmp_path: Path):
    (sweep,) = shown("toml")
    (tmp_path / "sweep.toml").write_text(sweep, encoding="utf-8")
    assert "cells" in sdlab(tmp_path, "sweep", "sweep.toml", "--dry-run")


def test_its_own_rules_stand_in_a_sweep(tmp_path: Path):
    (rules,) = (code for code in shown("python") if "class Fading" in code)
    (tmp_path / "my_rules.py").write_text(rules, encoding="utf-8")
    (tmp_path / "sweep.toml").write_text(SWEEP, encoding="utf-8")
    sdlab(tmp_path, "sweep", "sweep.toml")
    assert "Fading" in (tmp_path / "runs/sweep/table.md").read_text(encoding="utf-8")
