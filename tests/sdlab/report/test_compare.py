"""Equal cells of several runs: what changed beyond noise, and gates on it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bench import TOML, FakeBench, fail_on, random
from rich.console import Console

from sdlab.commands.compare import command
from sdlab.report.compare import Comparison, Gate, compare
from sdlab.report.stored_run import opened_run
from sdlab.sweep.cell import Cell
from sdlab.sweep.results import CellResult
from sdlab.sweep.run import PLAN
from sdlab.sweep.store import Store
from sdlab.system.errors import RunError, UsageError

Run = Callable[..., tuple[int, str, list[str]]]


class Changed(FakeBench):
    """The fake bench with other CLIP scores and FIDs: `shift` in their means, `noise` in each image."""

    def __init__(self, shift: float = 0.0, noise: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.shift, self.noise = shift, noise

    def run(self, cell: Cell, on_progress: Callable[[float], None], images: range) -> CellResult:
        found = super().run(cell, on_progress, images)
        size = len(found.per_image["clip_score"])
        score = found.per_image["clip_score"] + self.shift + self.noise * random(f"{cell.label}!").normal(size=size)
        return replace(
            found,
            metrics={**found.metrics, "clip_score": float(score.mean())},
            per_image={**found.per_image, "clip_score": score},
        )


@pytest.fixture
def runs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the sweep file on a bench in a folder of its own; returns the run directory."""
    monkeypatch.setattr("sdlab.report.run_report._files", lambda *_: ())

    def make(name: str, bench: FakeBench | None = None, toml: str = TOML) -> Path:
        run(bench or FakeBench(), toml=toml, out=tmp_path / name)
        return (tmp_path / name / "quick").rename(tmp_path / name / name)

    return make


def compared(*directories: Path) -> Comparison:
    opened = [opened_run(path) for path in directories]
    try:
        return compare([(path.name, one.__enter__()) for path, one in zip(directories, opened, strict=True)])
    finally:
        for one in opened:
            one.__exit__(None, None, None)


def marks(found: Comparison, metric: str) -> list[str]:
    column = next(column for column in found.table.columns if column.name == metric)
    return [str(field)[-1] for field in column.fields]


def test_equal_runs_are_equal_in_every_cell(runs):
    found = compared(runs("a"), runs("b"))
    assert marks(found, "fid") == marks(found, "clip_score") == ["="] * 8
    assert found.failures([Gate.of(text) for text in ("worse", "changed", "missing", "fid>0")]) == []
    assert "b has the same versions, model and device." in found.table.caption


@pytest.mark.parametrize(("shift", "mark"), [(1.0, "✓"), (-1.0, "✗")])
def test_a_shift_beyond_noise_is_marked_and_fails_its_gates(shift: float, mark: str, runs):
    found = compared(runs("a"), runs("b", Changed(shift, 0.2)))
    assert marks(found, "clip_score") == [mark] * 8
    worse, changed = (found.failures([Gate.of(text)]) for text in ("worse", "changed"))
    assert changed == ["--fail-if changed: 8 of 16 values changed"]
    assert worse == (["--fail-if worse: 8 of 16 values are worse"] if shift < 0 else [])
    beyond = [found.failures([Gate.of(f"clip_score>{amount}")]) != [] for amount in (0, 0.5, 1.5)]
    assert beyond == ([True, True, False] if shift < 0 else [False] * 3)


@pytest.mark.slow
def test_noise_alone_passes_the_gate_in_19_of_20_runs():
    """At a false-discovery rate of 5 %, runs of equal cells with other noise fail in 5 % of cases."""
    from sdlab.metrics import METRICS
    from sdlab.report.changes import judge, sign
    from sdlab.report.statistics import difference
    from sdlab.sweep.store import Row

    clip, generator, fails, repeats = METRICS["clip_score"], np.random.default_rng(0), 0, 1000
    cell = Cell.model_validate({"sampler": {"name": "a"}, "grid": {"name": "a"}, "guidance": {"name": "a"}, "steps": 1})
    for _ in range(repeats):
        found = []
        for _ in range(8):
            a, b = (Row("", cell, metrics={"clip_score": v.mean()}, per_image={"clip_score": v})
                    for v in generator.normal(size=(2, 40)))  # fmt: skip
            found.append(difference(clip, b, a))
        fails += any(sign(clip, one) in "✓✗" for one in judge({"clip_score": found})["clip_score"])
    assert fails / repeats == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / repeats) ** 0.5)


def test_rounding_is_not_a_change(runs):
    """All images are shifted by 1e-6 of their value, which no noise would hide."""
    found = compared(runs("a"), runs("b", Changed(2e-5, 1e-7)))
    assert marks(found, "clip_score") == ["≈"] * 8


def test_runs_with_other_seeds_are_compared_without_pairing(runs):
    found = compared(runs("a"), runs("b", Changed(0.5, 0.1), TOML.replace("images = 16", "images = 16\nseed = 50")))
    assert marks(found, "clip_score") == ["≈"] * 8  # paired it would be seen: 0.5 against 0.1/√16
    assert any("not paired" in line for line in found.table.caption)
    assert marks(compared(runs("c"), runs("d", Changed(0.5, 0.1))), "clip_score") == ["✓"] * 8


def test_fid_of_other_numbers_of_images_is_not_compared(runs):
    found = compared(runs("a"), runs("b", toml=TOML.replace("images = 16", "images = 15")))
    assert [metric.name for metric in found.metrics] == ["clip_score"]
    assert any("FID (lab) cannot be compared" in line for line in found.table.caption)
    with pytest.raises(UsageError, match=r"^--fail-if: the runs cannot be compared in fid$"):
        found.failures([Gate.of("fid>1")])


def test_cells_without_values_are_missing(runs):
    base = runs("a")
    failed = compared(base, runs("b", FakeBench(fail_on("heun · trailing · none · 5 steps", "NaN"))))
    assert failed.failures([Gate.of("missing"), Gate.of("worse")]) == [
        "--fail-if missing: 1 cells of the first run have no values in another"
    ]
    assert "–" in marks(failed, "fid")
    fewer = compared(base, runs("c", toml=TOML.replace("[5, 10]", "5")))
    assert len(fewer.pairs) == 4
    assert fewer.missing == 4


def test_differences_in_version_and_device_are_named(runs):
    a, b, c = runs("a"), runs("b"), runs("c", Changed(-1.0))
    with Store(b / "results.sqlite") as store:
        store._db.execute("UPDATE cells SET provenance = json_set(provenance, '$.torch', '9.9', '$.device_name', 'X')")
    found = compared(a, b, c)
    assert any(
        line.startswith("b differs in torch ") and "→ 9.9" in line and "→ X" in line for line in found.table.caption
    )
    assert found.table.columns[0].values == ("b",) * 8 + ("c",) * 8
    assert marks(found, "clip_score") == ["="] * 8 + ["✗"] * 8


def test_runs_without_equal_cells_are_reported(runs):
    a, b = runs("a"), runs("b", toml=TOML.replace("[5, 10]", "7"))
    with pytest.raises(UsageError, match=r"^b and a have no equal cells$"):
        compared(a, b)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wors", "--fail-if: write worse, changed, missing or an amount like \"fid>0.5\", got 'wors'"),
        ("fid>-1", "--fail-if: write worse, changed, missing or an amount like \"fid>0.5\", got 'fid>-1'"),
        ("fid>nan", "--fail-if: write worse, changed, missing or an amount like \"fid>0.5\", got 'fid>nan'"),
        ("contrast>1", "--fail-if: neither a lower nor a higher contrast is worse; write changed"),
        ("fdi>1", "--fail-if: unknown metric 'fdi' (did you mean 'fid'?); known: "),
    ],
)
def test_a_wrong_gate_is_one_line(text: str, message: str):
    with pytest.raises(UsageError) as caught:
        Gate.of(text)
    assert caught.value.lines[0].startswith(message)


def test_the_command_prints_the_table_and_fails_with_the_gate(runs, capsys):
    a, b = runs("a"), runs("b", Changed(-1.0, 0.1))
    command([a, b], None, "md")
    assert "| Δ FID (lab) ↓ | Δ CLIP score ↑ |" in capsys.readouterr().out
    with pytest.raises(RunError) as caught:
        command([a, b], ["worse", "fid>1"], "csv")
    assert caught.value.lines == ["--fail-if worse: 8 of 16 values are worse"]
    assert caught.value.status == 1
    assert len(capsys.readouterr().out.splitlines()) == 9  # the table is printed all the same
    with pytest.raises(UsageError, match="name two run directories or more"):
        command([a], None, None)


def test_a_foreign_file_is_reported_and_not_changed(runs, tmp_path: Path):
    a = runs("a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "results.sqlite").write_bytes(b"text")
    with pytest.raises(RunError, match="is damaged or is not an SQLite file"):
        compared(a, tmp_path / "b")
    assert (tmp_path / "b" / "results.sqlite").read_bytes() == b"text"


def test_a_hostile_name_is_text(runs, capsys):
    a, b = runs("a"), runs("b\x1b[31m")
    for directory in (a, b):
        with Store(directory / "results.sqlite") as store:
            text = store.note(PLAN)
            assert text is not None
            store.set_note(PLAN, text.replace('"name": "quick"', '"name": "\\u001b[31m"'))
    for form in ("table", "md", "csv", "latex", "html"):
        command([a, b], None, form)
        assert "\x1b" not in capsys.readouterr().out


def test_a_comparison_fits_80_columns(runs):
    from sdlab.report.terminal import print_table

    out = io.StringIO()
    found = compared(runs("a"), runs("b", Changed(-1.0, 0.1)), runs("c", Changed(1.0, 0.1)))
    print_table(Console(file=out, width=80, force_terminal=True, color_system=None), found.table)
    assert max(map(len, out.getvalue().splitlines())) <= 80
