"""Fixtures that run a sweep file on the fake bench."""

import io
import shutil
from collections.abc import Callable
from functools import cache
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


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a run of this text without report files. Each text is run once; tests change copies alone."""

    @cache
    def run_once(toml: str) -> Path:
        folder = tmp_path_factory.mktemp("stored")
        (folder / "quick.toml").write_text(toml, encoding="utf-8")
        console = Console(file=io.StringIO())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sdlab.report.run_report._files", lambda *_: ())
            assert (
                sweep(folder / "quick.toml", lambda _: "weights", lambda _: FakeBench(), out=folder, console=console)
                == 0
            )
        return folder / "quick"

    return run_once


@pytest.fixture
def finished(stored: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """The directory that `run` would leave behind, without report files."""

    def copy(toml: str = TOML) -> Path:
        return Path(shutil.copytree(stored(toml), tmp_path / "runs" / "quick"))

    return copy


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are empty files: they take longer than everything else here, and are tested elsewhere."""
    monkeypatch.setattr("sdlab.report.plots.plot_metric", lambda path, *_: path.touch())


@pytest.fixture
def only_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the files of a report only the tables are drawn, and the others are empty."""
    for name in ("_write_page", "_draw_sheet", "_plot", "_plot_error_path", "_plot_trade_off"):
        monkeypatch.setattr(f"sdlab.report.run_report.{name}", lambda path, *_: path.touch())


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report is what it prints, and has no files."""
    monkeypatch.setattr("sdlab.report.run_report._files", lambda *_: ())
