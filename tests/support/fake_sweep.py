"""Fixtures that run a sweep file on the fake bench."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_bench import TOML, FakeBench
from rich.console import Console

from sdlab.commands.sweep import sweep


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "quick.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


@pytest.fixture
def run(file: Path, tmp_path: Path) -> Callable[..., tuple[int, str, list[str]]]:
    """Run the file: exit status, what is printed, the labels of the cells that were run."""

    def run_it(bench: FakeBench | None = None, toml: str = TOML, **options: object) -> tuple[int, str, list[str]]:
        file.write_text(toml, encoding="utf-8")
        bench, console = bench or FakeBench(), Console(file=io.StringIO(), width=120)
        options = {"open_bench": lambda plan: bench, "out": tmp_path / "runs", **options}
        status = sweep(file, lambda plan: "weights", console=console, **options)  # type: ignore[arg-type]
        return status, console.file.getvalue(), bench.ran  # type: ignore[attr-defined]

    return run_it
