"""Logarithmic axes have plain numbers at ticks that do not overlap."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from sdlab.commands.app import app
from sdlab.report.figures import log_axis, save


def labels(places: list[float], low: float, high: float) -> list[str]:
    """The labels of the ticks between `low` and `high`, as they are drawn."""
    axes = Figure().add_subplot()
    log_axis(axes.xaxis, places)
    axes.set_xlim(low, high)
    assert axes.get_xscale() == "log"
    assert axes.get_yscale() == "linear"
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    return [axes.xaxis.get_major_formatter()(tick) for tick in ticks]


@pytest.mark.parametrize(
    ("places", "wanted"),
    [
        ([5, 10, 20], ["5", "10", "20"]),
        ([5, 19, 20], ["5", "20"]),  # 19 would be printed over 20
        ([5, 18, 20, 158], ["5", "20"]),  # 158 is outside, and 18 is near 20 on so long an axis
        ([], ["5", "10", "20", "50"]),
        (list(range(5, 50)), ["5", "10", "20", "50"]),
    ],
    ids=["given", "too close", "too close on a long axis", "none given", "too many"],
)
def test_ticks(places: list[float], wanted: list[str]):
    assert labels(places, 4, 60) == wanted


def test_the_vertical_axis_can_be_logarithmic_alone():
    axes = Figure().add_subplot()
    log_axis(axes.yaxis)
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")


def test_a_figure_is_saved_in_the_format_of_its_name_and_equal_ones_are_equal(tmp_path: Path):
    def drawn(name: str) -> bytes:
        figure = Figure()
        figure.add_subplot().set_title("σ and \x1b")
        save(figure, tmp_path / name, dpi=50)
        return (tmp_path / name).read_bytes()

    assert drawn("a.pdf").startswith(b"%PDF-")
    assert drawn("a.pdf") == drawn("b.pdf")
    assert b"/Type3" not in drawn("a.pdf")  # bitmap-like fonts, which journals refuse
    drawn("a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.filterwarnings("error")
def test_a_text_that_is_wider_than_its_figure_is_cut(tmp_path: Path):
    def drawn(name: str, title: str) -> bytes:
        figure = Figure(layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left")
        axes.plot([1, 2], label=title)
        figure.legend(loc="outside right upper")
        save(figure, tmp_path / name, dpi=50)
        return (tmp_path / name).read_bytes()

    assert drawn("a.png", "n" * 120) != drawn("b.png", "n" * 119 + "…") == drawn("c.png", "n" * 5000)


def test_the_report_has_its_plots_as_pdf_too_if_asked(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run()
    directory = tmp_path / "runs" / "quick"
    assert not list(directory.glob("*.pdf"))
    done = CliRunner().invoke(app, ["report", str(directory), "--pdf"], catch_exceptions=False)
    assert done.exit_code == 0
    assert {path.stem for path in directory.glob("*.pdf")} == {"fid", "clip_score"}
    assert {"fid.png", "clip_score.png"} <= {path.name for path in directory.iterdir()}
