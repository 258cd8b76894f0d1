"""The report says what is best and what cannot be told from it, and can always be drawn again from the store."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from fake_bench import TOML, FakeBench, fail_on
from PIL import Image
from rich.console import Console
from scipy import stats

from sdlab.errors import UsageError
from sdlab.metrics import METRICS
from sdlab.sweep import Cell, CellFailed, Choice, Row, report
from sdlab.sweep.compare import difference, standings

CELL = Cell(sampler=Choice(name="ddim"), grid=Choice(name="trailing"), guidance=Choice(name="none"), steps=5)
FID, CLIP = METRICS["fid"], METRICS["clip_score"]
FILES = {"plan.json", "results.sqlite", "table.csv", "table.md", "contact_sheet.png", "fid.png", "clip_score.png"}


def scored(values: np.ndarray) -> Row:
    return Row("", CELL, metrics={"clip_score": float(values.mean())}, per_image={"clip_score": values})


def set_value(value: float, error: float | None) -> Row:
    return Row("", CELL, metrics={"fid": value}, stderr={} if error is None else {"fid": error})


def test_the_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30))
    ours, theirs = difference(CLIP, scored(a), scored(b)), stats.ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose((ours.low, ours.high), theirs, rtol=1e-12)


def test_pairing_tells_cells_apart_that_their_own_errors_would_not():
    """Images differ by 10, cells by 0.5: hopeless unpaired (standard error 1), plain when paired."""
    rng = np.random.default_rng(0)
    images, jitter = 10 * rng.normal(size=100), rng.normal(size=(2, 100))
    best, behind = scored(images + jitter[0] + 0.5), scored(images + jitter[1])
    assert stats.ttest_ind(best.per_image["clip_score"], behind.per_image["clip_score"]).pvalue > 0.5
    assert [s.best for s in standings(CLIP, [best, behind])] == [True, False]
    assert not standings(CLIP, [best, behind])[1].ties


def test_cells_that_differ_by_chance_alone_tie_in_95_of_100_cases():
    rng, n = np.random.default_rng(0), 4000
    pairs = rng.normal(size=(n, 2, 25))
    inside = sum(difference(CLIP, scored(a), scored(b)).ties for a, b in pairs)
    assert inside / n == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / n) ** 0.5)


@pytest.mark.parametrize(("gap", "ties"), [(2.7, True), (2.85, False)])
def test_metrics_of_a_set_tie_within_1_96_errors_of_the_difference(gap, ties):
    """1.96 × √(1² + 1²) = 2.77."""
    assert standings(FID, [set_value(20, 1.0), set_value(20 + gap, 1.0)])[1].ties is ties


def test_without_standard_errors_only_equals_tie():
    first, same, other = standings(FID, [set_value(20, None), set_value(20, None), set_value(20.01, None)])
    assert (first.best, same.ties, other.ties) == (True, True, False)


def test_better_is_lower_or_higher_as_the_metric_says_and_failures_have_no_standing():
    rows = [Row("", CELL, reason="NaN"), set_value(20, 0.1), set_value(10, 0.1)]
    assert [s and s.best for s in standings(FID, rows)] == [None, False, True]
    rows = [scored(np.full(4, 20.0)), scored(np.full(4, 30.0))]
    assert [s.best for s in standings(CLIP, rows)] == [False, True]


def test_the_run_directory_holds_tables_plots_and_pictures_that_parse(run, tmp_path):
    run()
    directory = tmp_path / "runs" / "quick"
    assert {path.name for path in directory.iterdir() if not path.name.startswith(".")} == FILES
    for path in directory.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 200
    rows = list(csv.DictReader(io.StringIO((directory / "table.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 8
    assert [row["fid_standing"] for row in rows].count("best") == 1
    best = next(row for row in rows if row["fid_standing"] == "best")
    assert float(best["fid"]) == min(float(row["fid"]) for row in rows)
    text = (directory / "table.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 10
    assert len({line.count("|") for line in lines}) == 1
    assert "grid trailing" in text  # the same in every cell: said once


def test_a_contact_sheet_shows_every_cell_beside_its_label(run, tmp_path):
    run()
    eight = Image.open(tmp_path / "runs" / "quick" / "contact_sheet.png").size
    run(toml=TOML.replace("[5, 10]", "5"))
    four = Image.open(tmp_path / "runs" / "quick" / "contact_sheet.png").size
    assert eight[0] == four[0]
    assert eight[1] - four[1] == 4 * 116


def test_the_table_of_36_cells_fits_120_columns_a_line_a_cell(run):
    toml = TOML.replace('["ddim", "heun"]', '["ddim", "ddpm", "euler_ancestral", "dpmpp_2m"]')
    toml = toml.replace("3.0 }", '3.0 }, { name = "cfg", scale = 7.0 }').replace("[5, 10]", "[5, 10, 20]")
    lines = run(toml=toml)[1].splitlines()
    cells = [line for line in lines if line.startswith(("ddim ", "ddpm ", "euler_ancestral ", "dpmpp_2m "))]
    assert len(cells) == 36
    assert max(map(len, lines)) <= 120
    assert sum("★" in line for line in cells) >= 1


def test_the_report_is_drawn_again_from_the_store_alone(run, tmp_path):
    run(FakeBench(fail_on("heun · trailing · none · 5 steps", "NaN")))
    directory = tmp_path / "runs" / "quick"
    before = {path.name: path.read_bytes() for path in directory.glob("table.*")}
    for path in directory.iterdir():
        if path.name != "results.sqlite":
            path.unlink()
    files = report(directory, Console(file=io.StringIO()))
    assert {path.name for path in files} == FILES - {"plan.json", "results.sqlite"}
    assert all(path.is_file() for path in files)
    assert {path.name: path.read_bytes() for path in directory.glob("table.*")} == before


def test_a_sweep_in_which_every_cell_fails_still_reports(run, tmp_path):
    def fail(cell: Cell) -> None:
        raise CellFailed("no")

    status, out, _ = run(FakeBench(fail))
    assert status == 1
    assert out.count("failed: ") == 8
    assert (tmp_path / "runs" / "quick" / "fid.png").is_file()


def test_a_repeated_sweep_draws_only_what_is_missing_or_old(run, tmp_path):
    run()
    plot = tmp_path / "runs" / "quick" / "fid.png"
    drawn = plot.stat().st_mtime_ns
    run()
    assert plot.stat().st_mtime_ns == drawn
    run(toml=TOML.replace("[5, 10]", "5"))
    assert plot.stat().st_mtime_ns > drawn
    plot.unlink()
    run(toml=TOML.replace("[5, 10]", "5"))
    assert plot.is_file()


def test_a_directory_without_results_is_told(tmp_path: Path):
    with pytest.raises(UsageError, match=r"there are no results there \(results.sqlite is missing\)"):
        report(tmp_path, Console(file=io.StringIO()))
