"""The report says what is best and what ties with it, and can always be drawn again from the store."""

import csv
import io
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_bench import TOML, FakeBench, fail_on, result
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from rich.console import Console
from scipy import stats

from sdlab.report.machine import csv_text
from sdlab.report.run_report import report
from sdlab.report.stored_run import opened_run
from sdlab.report.table import make_table
from sdlab.sweep.cell import Cell, Choice
from sdlab.sweep.plan import load_plan
from sdlab.sweep.results import CellFailed, CellResult
from sdlab.sweep.run import read_plan
from sdlab.sweep.store import Store
from sdlab.system.errors import RunError, UsageError
from sdlab.system.text import shown

TABLES, PLOTS = {"table.csv", "table.md"}, {"contact_sheet.png", "fid.png", "clip_score.png"}
FILES = {"plan.json", "results.sqlite", "report.html"} | TABLES | PLOTS


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The plots, which are made but not turned into pixels."""
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (drawn.append(figure), path.touch()))
    return drawn


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


def test_a_contact_sheet_shows_every_cell_beside_its_label(run, tmp_path, no_plots):
    run()
    eight = Image.open(tmp_path / "runs" / "quick" / "contact_sheet.png").size
    run(toml=TOML.replace("[5, 10]", "5"))
    four = Image.open(tmp_path / "runs" / "quick" / "contact_sheet.png").size
    assert eight[0] == four[0]
    assert eight[1] - four[1] == 4 * 116


def test_the_table_of_36_cells_fits_120_columns_with_one_line_per_cell(run, no_files):
    toml = TOML.replace('["ddim", "heun"]', '["ddim", "ddpm", "euler_ancestral", "dpmpp_2m"]')
    toml = toml.replace("3.0 }", '3.0 }, { name = "cfg", scale = 7.0 }').replace("[5, 10]", "[5, 10, 20]")
    table = run(toml=toml)[1].partition("model scenes")[0]
    lines = table.splitlines()
    cells = [line for line in lines if line.startswith(("ddim ", "ddpm ", "euler_ancestral ", "dpmpp_2m "))]
    assert len(cells) == 36
    assert max(map(len, lines)) <= 120
    assert sum("★" in line for line in cells) >= 1


@pytest.mark.filterwarnings("error")
def test_values_that_overflow_on_an_axis_are_reported_without_warnings(finished):
    directory = finished()
    with sqlite3.connect(directory / "results.sqlite") as db:
        db.execute("UPDATE cells SET metrics = ?", ('{"fid": 1e308, "clip_score": 0.3}',))
    with suppress(RunError):  # whether such a plot can be drawn depends on the version of Matplotlib
        report(directory, Console(file=io.StringIO()))


def test_the_report_is_drawn_again_from_the_store_alone(run, tmp_path, figures):
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


EDIT = TOML.replace("[cells]", '[image]\nset = "scenes"\n[cells]').replace("[5, 10]", "10\nstrength = [0.2, 0.6, 1]")
EDIT = EDIT.replace('"fid", "clip_score"', '"fid", "clip_score", "psnr"')


def edited(run: Callable[..., tuple[int, str, list[str]]]) -> str:
    """A sweep over strengths of a bench that has input pictures."""
    bench = FakeBench()
    bench.inputs = np.full((3, 8, 8, 3), 77, np.uint8)
    return run(bench, toml=EDIT)[1]


def test_strength_is_a_column_of_the_table(run, tmp_path, only_tables):
    out = edited(run)
    assert "Image-to-image from the pictures of set scenes, one per prompt" in " ".join(out.split())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "runs" / "quick" / "table.csv").read_text(encoding="utf-8"))))
    assert [row["strength"] for row in rows] == ["0.2", "0.6", "1"] * 4
    assert "| strength |" in (tmp_path / "runs" / "quick" / "table.md").read_text(encoding="utf-8")


def test_plots_have_strength_on_the_horizontal_axis_if_it_varies(run, tmp_path, figures):
    edited(run)
    first, trade = figures[0].axes[0], figures[-1].axes[0]
    assert (first.get_xlabel(), first.get_xscale()) == ("strength", "linear")
    across = first.lines[0].get_xdata()
    assert list(across) == pytest.approx([0.2, 0.6, 1.0], abs=0.01)
    assert trade.get_xlabel().startswith("PSNR")
    assert trade.get_ylabel().startswith("CLIP score")
    assert [text.get_text() for text in trade.texts] == ["0.2", "0.6", "1"] * 4
    files = {path.name for path in (tmp_path / "runs" / "quick").glob("*.png")}
    assert files == {"fid.png", "clip_score.png", "psnr.png", "clip_score_for_psnr.png", "contact_sheet.png"}


def test_the_contact_sheet_of_image_to_image_begins_with_the_inputs(run, tmp_path, figures):
    edited(run)
    with Image.open(tmp_path / "runs" / "quick" / "contact_sheet.png") as sheet:
        top = np.asarray(sheet)[: sheet.height - 12 * 116 - 12]  # 12 cells of 116 pixels, and the margin
    assert np.sum(np.all(top == 77, axis=2)) >= 3 * 112 * 112


BUDGETS = TOML.replace("steps = [5, 10]", "passes = [5, 10]")
CROWD = BUDGETS.replace('"heun"]', '"heun", "euler", "deis", "lms", "dpm2", "lcm"]')


def test_budgets_are_a_column_beside_their_steps(run, tmp_path, only_tables):
    run(toml=BUDGETS)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "runs" / "quick" / "table.csv").read_text(encoding="utf-8"))))
    assert [(row["budget"], row["steps"]) for row in rows[4:]] == [("5", "3"), ("10", "5"), ("5", "1"), ("10", "3")]
    assert "| budget | steps | passes |" in (tmp_path / "runs" / "quick" / "table.md").read_text(encoding="utf-8")


def test_many_samplers_get_a_ranking_with_the_best_of_each_budget_on_top(run, figures):
    run(toml=CROWD)
    fid = figures[0]
    assert [axes.get_title(loc="left") for axes in fid.axes] == ["5 passes", "10 passes"]
    for axes in fid.axes:
        lines = [line for line in axes.lines if line.get_marker() == "o"]
        dots = sorted(
            (place, value, line.get_markerfacecolor())
            for line in lines
            for place, value in zip(line.get_ydata(), line.get_xdata(), strict=True)
        )
        names = [text.get_text() for text in axes.get_yticklabels()]
        assert [place for place, *_ in dots] == list(range(14)) == list(range(len(names)))
        values = [value for _, value, _ in dots]
        assert values == sorted(values)
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first is on top
        marks = [name.split()[-1] if name.split()[-1] in "★≈" else "" for name in names]
        assert marks.count("★") == 1
        filled = [face != "white" for *_, face in dots]
        assert filled == [mark != "" for mark in marks]
    assert any(text.get_text().startswith("heun (9)") for text in fid.axes[1].get_yticklabels())
    assert "; real pictures: 3.25" in fid.get_suptitle()


def test_a_cell_with_given_steps_goes_to_the_smallest_budget_that_holds_its_passes(run, figures):
    run(toml=CROWD + '[[extra]]\nsampler = "ddpm"\nguidance = "none"\nsteps = 7\n')
    names = [[text.get_text().split() for text in axes.get_yticklabels()] for axes in figures[0].axes]
    assert [[name[:2] for name in panel if name[0] == "ddpm"] for panel in names] == [[], [["ddpm", "(7)"]]]


SCALES = """
model = "scenes"
images = 16
metrics = ["fid"]
prompts = { set = "scenes", count = 3 }
[cells]
sampler = ["ddim", "heun"]
guidance = ["none", { name = "cfg", scale = 2.0 }, { name = "cfg", scale = 4.0 }, { name = "cfg", scale = 8.0 }]
steps = [5, 10]
"""


def test_plots_have_the_scale_on_the_horizontal_axis_if_guidance_differs_in_nothing_else(run, figures):
    run(toml=SCALES)
    axes = figures[0].axes[0]
    assert axes.get_xlabel() == "guidance scale (1: unguided)"
    curves = [bars.lines[0].get_xdata() for bars in axes.containers]
    assert len(curves) == 4  # one per sampler and number of steps
    assert all(list(curve) == pytest.approx([1, 2, 4, 8], abs=0.05) for curve in curves)


@pytest.mark.parametrize("other", ['"cfg_zero"', '{ name = "cfg", scale = 4.0, interval = [0.5, 5.0] }'])
def test_the_scale_is_no_axis_if_guidance_differs_in_more(run, figures, other: str):
    run(toml=SCALES.replace('"none", {', f'"none", {other}, {{'))
    assert "guidance scale" not in figures[0].axes[0].get_xlabel()


class Coloured(FakeBench):
    """The fake bench with saturations around 0.3 and, with guidance, around 0.75."""

    def real(self) -> dict[str, tuple[float, float]]:
        return {"saturation": (0.4, 0.01)}

    def run(self, cell: Cell, on_progress: Callable[[float], None], images: range) -> CellResult:
        found = super().run(cell, on_progress, images)
        values = (0.3 if cell.guidance.name == "none" else 0.75) + 0.01 * np.arange(16) / cell.steps
        return replace(found, metrics={"saturation": float(values.mean())}, per_image={"saturation": values})


@pytest.mark.parametrize("known", [True, False])
def test_the_cell_nearest_to_real_pictures_is_the_best_if_their_value_is_known(
    known: bool, run, no_files, tmp_path, monkeypatch
):
    if not known:
        monkeypatch.setattr(Coloured, "real", lambda self: {})
    toml = TOML.replace('"fid", "clip_score"', '"saturation"').replace(
        "images = 16", 'images = 16\ncompare = "guidance"'
    )
    _, printed, _ = run(Coloured(), toml=toml.replace('["ddim", "heun"]', '"ddim"'))
    with Store(tmp_path / "runs" / "quick" / "results.sqlite") as store:
        plan, keys = read_plan(store)
        found = make_table(plan, store.rows(keys), Coloured().real())
    [column] = [one for one in found.columns if one.name == "saturation"]
    assert column.heading == "saturation →"
    assert [field.mark for field in column.fields] == (["★", "", "", ""] if known else [""] * 4)
    assert [field.text for field in column.fields] == ["0.315", "0.307", "0.765", "0.757"]
    assert "→ nearer to real is better" in found.caption[1]
    verdict = "ddim · none · 5 steps is best" if known else "the value of real pictures is not known"
    assert any(line.startswith(f"saturation: {verdict}") for line in found.caption)
    assert "+0.450" in printed
    assert "≠" in printed


def test_differences_are_of_cells_that_differ_in_one_thing_paired_and_judged(run, tmp_path, only_tables):
    scales = '[{ name = "cfg", scale = 1.0 }, { name = "cfg", scale = 3.0 }]'
    toml = TOML.replace('["none", { name = "cfg", scale = 3.0 }]', scales)
    out = run(toml=toml.replace("images = 16", 'images = 16\ncompare = "guidance.scale"'))[1]
    assert "quick: differences in guidance.scale" in out
    lines = (tmp_path / "runs" / "quick" / "differences.md").read_text(encoding="utf-8").splitlines()
    assert lines[2].startswith("| sampler | guidance.scale | steps | Δ FID (lab) ↓ | Δ CLIP score ↑ |")
    found = [[field.strip() for field in line.strip("|").split("|")] for line in lines[4:8]]
    pairs = ("ddim", "5"), ("ddim", "10"), ("heun", "5"), ("heun", "10")
    assert [(line[0], line[2]) for line in found] == list(pairs)
    for line, (sampler, steps) in zip(found, pairs, strict=True):
        assert line[1] == "3.0 − 1.0"
        guided, plain = (
            result(bench_cell(toml, tmp_path, f"{sampler} · trailing · cfg scale={scale} · {steps} steps"))
            for scale in (3, 1)
        )
        gaps = guided.per_image["clip_score"] - plain.per_image["clip_score"]
        assert line[4].split()[0] == f"{gaps.mean():+.2f}±{gaps.std(ddof=1) / 4:.2f}".replace("±0.", "±.")
        verdict = "≈" if stats.ttest_1samp(gaps, 0).pvalue > 0.05 else "✓" if gaps.mean() > 0 else "✗"
        assert line[4].split()[1] == verdict


def test_at_strength_0_no_pass_is_made_and_nothing_fails(run):
    toml = EDIT.replace("[0.2, 0.6, 1]", "[0, 1]").replace('["ddim", "heun"]', '"ddim"')
    assert run(toml=toml)[0] == 0
    assert run(toml=toml.replace("[0, 1]", "0"))[0] == 0
    more = toml.replace("10\n", "[10, 3]\n")
    assert "4 of 8 cells to run" in run(toml=more, dry_run=True)[1]


def test_a_sweep_without_metrics_is_a_gallery(run, tmp_path):
    class Draws(FakeBench):
        def run(self, cell: Cell, on_progress: Callable[[float], None], images: range) -> CellResult:
            found = super().run(cell, on_progress, images)
            return replace(found, metrics={}, stderr={}, per_image={}, replicates={})

    toml = TOML.replace('metrics = ["fid", "clip_score"]\n', "").replace("images = 16", "images = 3\nseed = 7")
    bench = Draws()
    status, out, ran = run(bench, toml=toml)
    assert (status, len(ran)) == (0, 8)
    assert "★" not in out
    directory = tmp_path / "runs" / "quick"
    assert {path.name for path in directory.glob("*.png")} == {"contact_sheet.png"}
    pictures = sorted((directory / "pictures").iterdir())
    assert len(pictures) == 8 * 3
    assert re.fullmatch(r"ddim-trailing-cfg-scale=3-10-steps-[0-9a-f]{8}-7\.png", pictures[0].name)
    wanted = result(bench_cell(toml, tmp_path, "ddim · trailing · cfg scale=3 · 10 steps")).thumbnails[0]
    np.testing.assert_array_equal(np.asarray(Image.open(pictures[0])), wanted)
    pictures[0].unlink()
    run(Draws(), toml=toml)
    assert pictures[0].is_file()


def bench_cell(toml: str, folder: Path, label: str) -> Cell:
    (folder / "quick.toml").write_text(toml, encoding="utf-8")
    return next(cell for cell in load_plan(folder / "quick.toml").cells if cell.label == label)


def test_labels_name_the_features_of_a_metric(run, no_files):
    files = '[metric_files]\ninception = "i.pth"\nreference = "r.npz"\nclip = "c"\n[prompts]'
    out = " ".join(run(toml=TOML.replace("[prompts]", files))[1].split())
    assert "each cell: FID (Inception), CLIP score (OpenAI), time" in out
    assert "FID (lab)" not in out


def test_a_repeated_sweep_draws_only_what_is_missing_or_old(run, tmp_path, only_tables):
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


def test_of_a_very_long_table_the_beginning_is_printed_and_the_files_have_all_of_it(finished, only_tables, monkeypatch):
    directory, out = finished(), io.StringIO()
    monkeypatch.setattr("sdlab.report.run_report._PRINTED", 3)
    report(directory, Console(file=out, width=200))
    cells = len((directory / "table.csv").read_text(encoding="utf-8").splitlines()) - 1
    printed = out.getvalue().splitlines()
    assert sum(line.startswith(("ddim", "heun")) for line in printed) == 3
    assert f"The first 3 of {cells} rows are printed, and table.md has all of them." in printed


def test_the_tables_are_printed_even_if_no_file_can_be_written(finished, only_tables):
    directory = finished()
    for name in ("table.csv", "table.md"):
        (directory / name).mkdir()
    out = io.StringIO()
    with pytest.raises(RunError) as caught:
        report(directory, Console(file=out, width=140))
    (line,) = caught.value.lines
    assert line == f"cannot write {directory}/table.csv: it is a folder; 1 more files cannot be written either"
    assert "ddim" in out.getvalue()
    assert "★" in out.getvalue()


def test_a_link_instead_of_the_store_is_not_followed(run, tmp_path, capsys):
    (tmp_path / "secret").write_bytes(b"")
    (tmp_path / "runs" / "quick").mkdir(parents=True)
    (tmp_path / "runs" / "quick" / "results.sqlite").symlink_to(tmp_path / "secret")
    assert run()[0] == 1
    assert "results.sqlite is a link, and results are not written through links" in capsys.readouterr().err
    assert (tmp_path / "secret").read_bytes() == b""


HOSTILE = "$\\frac$ [red]x[/b] \x1b[31m\u202e\n| a | <img src=x> [y](javascript:z) `c` =1+1"


def test_a_hostile_name_is_text_everywhere(finished, figures):
    """In the terminal, Markdown, spreadsheets and plots. File names and options may contain such text."""
    directory = finished()
    with Store(directory / "results.sqlite") as store:
        text = store.note("plan.json")
        assert text is not None
        store.set_note("plan.json", text.replace('"name": "quick"', f'"name": {json.dumps(HOSTILE)}', 1))
    out = io.StringIO()
    report(directory, Console(file=out, width=140))
    markdown = (directory / "table.md").read_text(encoding="utf-8")
    title = "# \\$\\\\frac\\$ \\[red\\]x\\[/b\\] \\\\x1b\\[31m\\\\u202e\\\\n\\| a \\| &lt;img src=x&gt; "
    assert markdown.splitlines()[0] == title + "\\[y\\]\\(javascript:z) \\`c\\` =1+1"
    for printed in (out.getvalue(), markdown, (directory / "table.csv").read_text(encoding="utf-8")):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", printed)
    assert "[red]x[/b]" in out.getvalue()
    titles = [text.get_text() for figure in figures for text in figure.findobj(Text)]
    assert any(text.startswith("$\\frac$ [red]x[/b] \\x1b[31m") for text in titles)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "＝"])
def test_no_label_is_a_formula_in_a_spreadsheet(start: str, stored):
    with opened_run(stored(TOML)) as run:
        plan, cells = run.plan, run.rows
    cell = cells[0].cell
    rows = [replace(cells[0], cell=cell.model_copy(update={"sampler": Choice(name=f"{start}cmd|x!A1")}))]
    rows.append(replace(cells[1], reason=f"{start}1+1", metrics={}, stderr={}, per_image={}))
    header, first, second = csv.reader(io.StringIO(csv_text(make_table(plan, rows))))
    assert first[header.index("sampler")] == f"'{shown(start)}cmd|x!A1"
    assert second[header.index("reason")] == f"'{shown(start)}1+1"
    assert "'" not in "".join(value for name, value in zip(header, first, strict=True) if name != "sampler")


def test_names_of_pictures_are_short_and_differ_between_cells_that_look_alike(run, tmp_path):
    levels = [round(14.6 * 0.8**i, 5) for i in range(40)]
    others = [*levels[:-1], levels[-1] + 1e-9]  # a label shows six digits
    toml = TOML.replace('metrics = ["fid", "clip_score"]', "metrics = []").replace("[5, 10]", "40")
    extra = '[[extra]]\nsampler = "ddim"\nguidance = "none"\ngrid = {name = "explicit", sigmas = %s}\n'
    run(toml=toml + extra % levels + extra % others)
    names = [path.name for path in (tmp_path / "runs" / "quick" / "pictures").iterdir()]
    assert max(len(name.encode()) for name in names) <= 255
    assert len({name.rpartition("-")[0].lower() for name in names}) == 6


def test_a_directory_without_results_is_reported(tmp_path: Path):
    with pytest.raises(UsageError, match=r"has no results: results.sqlite is missing$"):
        report(tmp_path, Console(file=io.StringIO()))
