"""report.html has the values and pictures of the store, and nothing in it runs or loads but its own scripts."""

import base64
import hashlib
import io
import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import altair
import numpy as np
import pytest
from fake_bench import TOML, FakeBench, fail_on, result
from PIL import Image
from rich.console import Console

from sdlab.report import page
from sdlab.report.page.data import page_data
from sdlab.report.page.document import document, in_script
from sdlab.report.page.heat_map import heat_map
from sdlab.report.page.paths import page_paths
from sdlab.report.page.pictures import page_pictures
from sdlab.report.run_report import report
from sdlab.report.stored_run import StoredRun, opened_run
from sdlab.report.table import make_table
from sdlab.sweep.cell import Cell
from sdlab.sweep.previews import Previews
from sdlab.sweep.results import CellFailed, CellResult
from sdlab.sweep.store import Row
from sdlab.system.errors import RunError

pytestmark = pytest.mark.usefixtures("page_alone")
VENDOR = Path(page.__file__).with_name("vendor")


class Elements(HTMLParser):
    """The start tags of a page with their attributes, and the texts of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(("/" + tag, {}))


@pytest.fixture
def page_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the files of a report only the tables and the page are drawn."""
    for name in ("_draw_sheet", "_plot", "_plot_error_path", "_plot_trade_off"):
        monkeypatch.setattr(f"sdlab.report.run_report.{name}", lambda path, *_: path.touch())


def directory(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "quick"


def shown_by(tmp_path: Path) -> dict[str, Any]:
    """The data of the page that the last sweep wrote."""
    return data_of((directory(tmp_path) / "report.html").read_text(encoding="utf-8"))


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def specs(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for metric in data["metrics"]:
        yield from (*metric["costs"].values(), *metric["convergence"].values(), metric["heat"])


def pictures_of(urls: list[str]) -> np.ndarray:
    files = (io.BytesIO(base64.b64decode(url.removeprefix("data:image/webp;base64,"))) for url in urls)
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


def test_the_page_has_the_values_and_the_pictures_of_the_store(run, tmp_path):
    out = run()[1]
    assert f"report: {directory(tmp_path) / 'report.html'}" in out.splitlines()
    data = shown_by(tmp_path)
    with opened_run(directory(tmp_path)) as stored:
        rows = stored.rows
        assert [cell["label"] for cell in data["cells"]] == [row.cell.label for row in rows]
        assert [cell["steps"] for cell in data["cells"]] == [row.cell.steps for row in rows]
        assert [cell["passes"] for cell in data["cells"]] == [row.network_passes for row in rows]
        for metric in data["metrics"]:
            assert metric["values"] == [row.metrics[metric["name"]] for row in rows]
            limits = zip(metric["low"], metric["values"], metric["high"], strict=True)
            assert all(low < value < high for low, value, high in limits)
        columns = {column["name"]: column for column in data["columns"]}
        assert columns["fid"]["values"] == [row.metrics["fid"] for row in rows]
        assert [text.endswith("★") for text in columns["fid"]["texts"]].count(True) == 1
        for row, urls in zip(rows, data["pictures"]["of_cells"], strict=True):
            found = stored.pictures(row)
            assert found is not None
            assert data["pictures"]["prompts"] == found[0]
            np.testing.assert_array_equal(pictures_of(urls), found[1])  # small pictures are stored without loss
    assert data["protocol"]["seeds"] == "0 to 15, the same in every cell"
    assert any(line.startswith("@") for line in data["bibtex"])


def test_lower_higher_and_nearer_to_real_are_made_small_by_the_pareto_front(run, tmp_path):
    def contrast(cell: Cell) -> CellResult:
        made = result(cell)
        values = np.linspace(0.1, 0.4, 16) + 0.01 * cell.steps
        return replace(
            made,
            metrics={**made.metrics, "contrast": float(values.mean())},
            per_image={**made.per_image, "contrast": values},
        )

    bench = FakeBench()
    bench.run = lambda cell, on_progress, images: contrast(cell)  # type: ignore[method-assign]
    bench.real = lambda: {"contrast": (0.3, 0.01)}  # type: ignore[method-assign]
    run(bench, toml=TOML.replace('"clip_score"]', '"clip_score", "contrast"]'))
    metrics = {metric["name"]: metric for metric in shown_by(tmp_path)["metrics"]}
    assert metrics["fid"]["loss"] == metrics["fid"]["values"]
    assert metrics["clip_score"]["loss"] == [-value for value in metrics["clip_score"]["values"]]
    assert metrics["contrast"]["loss"] == [abs(value - 0.3) for value in metrics["contrast"]["values"]]


HOSTILE = '</script><script>alert("1")</script><!--<script>&amp;\u2028\u202e<img src=x onerror=alert(1)>'


def test_prompts_and_names_cannot_become_markup_or_scripts(run, tmp_path):
    run()
    harmless = Elements((directory(tmp_path) / "report.html").read_text(encoding="utf-8"))
    bench = FakeBench(fail_on("heun · trailing · none · 5 steps", HOSTILE))
    bench.prompts = [HOSTILE, "a blue star", "a green moon"]
    run(bench, toml=TOML.replace('"a red circle"', json.dumps(HOSTILE)))
    text = (directory(tmp_path) / "report.html").read_text(encoding="utf-8")
    assert Elements(text).tags == [
        (tag, {**attributes, "content": ANY} if "content" in attributes else attributes)
        for tag, attributes in harmless.tags
    ]
    data = data_of(text)
    assert data["pictures"]["prompts"][0] == HOSTILE.replace("\u2028", "\\u2028").replace("\u202e", "\\u202e")
    assert any(cell["reason"].startswith("</script>") for cell in data["cells"])
    assert "alert(" not in text.partition('<script id="data"')[0]


class _Any:
    def __eq__(self, other: object) -> bool:
        return True


ANY = _Any()


def test_a_title_is_text():
    text = document("</title><b>&", {})
    assert "<title>&lt;/title&gt;&lt;b&gt;&amp;</title>" in text


@pytest.mark.parametrize("text", ["</script>", "<!--", "&lt;", "\u2028\u2029", "{{scripts}}", "é ∇ 猫"])
def test_texts_in_the_script_element_are_read_back(text):
    written = in_script({"a": [text, None, 1.5]})
    assert not re.search("[<>&\u2028\u2029]", written)
    assert json.loads(written)["a"][1:] == [None, 1.5]
    assert text in document("t", {"a": text}) or re.search("[<>&\u2028]", text)


def test_the_policy_allows_the_scripts_of_the_page_alone_and_forbids_the_network(run, tmp_path):
    run()
    page = Elements((directory(tmp_path) / "report.html").read_text(encoding="utf-8"))
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in page.scripts[1:]
    ]
    assert rules.pop("script-src").split() == hashes
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not [
        a for _, a in page.tags if a.keys() & {"href", "srcset", "action"} or any(k.startswith("on") for k in a)
    ]
    assert not [a for _, a in page.tags if "src" in a]


def test_a_page_without_pictures_is_below_2_megabytes():
    """500 cells add about 1.5 MB, as a test in a browser measures."""
    assert len(document("empty", {}).encode()) < 2e6


def test_libraries_are_the_files_of_the_packages_that_the_readme_names():
    rows = re.findall(r"^\| (\S+\.(?:js|css)) \|.*\| (\w{64}) \|$", (VENDOR / "README.md").read_text(), re.MULTILINE)
    files = {path.name for path in VENDOR.iterdir() if path.suffix in (".js", ".css")}
    assert {name for name, _ in rows} == files
    for name, expected in rows:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == expected, name
        assert (VENDOR / f"{name.partition('.')[0]}.LICENSE").is_file()
        assert "</script" not in (VENDOR / name).read_text(encoding="utf-8").lower()


def test_every_library_in_a_page_has_its_licence():
    text = document("empty", {})
    for licence in VENDOR.glob("*.LICENSE"):
        assert licence.read_text(encoding="utf-8") in text


STRENGTHS = TOML.replace("[cells]", '[image]\nset = "scenes"\n[cells]').replace("[5, 10]", "10\nstrength = [0.2, 1]")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("toml", "across"),
    [
        (TOML, ["steps", "passes", "seconds"]),
        (STRENGTHS, ["strength", "passes", "seconds"]),
        (TOML.replace("steps = [5, 10]", "passes = [20, 40]"), ["steps", "passes", "seconds"]),
        (TOML.replace('"ddim", "heun"', '"ddim"').replace('"none", ', "").replace("[5, 10]", "5"), ["steps"]),
    ],
    ids=["steps", "strengths", "budgets", "one cell"],
)
def test_charts_are_valid_vega_lite(run, tmp_path, toml, across):
    """Altair has the JSON schema of Vega-Lite."""
    bench = FakeBench()
    bench.inputs = np.full((3, 8, 8, 3), 77, np.uint8)
    run(bench, toml=toml)
    data = shown_by(tmp_path)
    assert len(list(specs(data))) == 2 * (3 + len(across))
    for spec in specs(data):
        altair.Chart.from_dict(spec)
    assert list(data["across"]) == across
    assert len(data["pictures"]["inputs"]) == 3 * ("strength" in across)


def test_a_failed_cell_has_no_values_and_a_reason(run, tmp_path):
    run(FakeBench(fail_on("heun · trailing · none · 5 steps", "the sampler returned NaN")))
    data = shown_by(tmp_path)
    failed = [cell for cell in data["cells"] if cell["reason"]]
    assert [(cell["label"], cell["reason"]) for cell in failed] == [
        ("heun · trailing · none · 5 steps", "the sampler returned NaN")
    ]
    number = failed[0]["cell"]
    assert (failed[0]["passes"], failed[0]["seconds"]) == (None, None)
    for metric in data["metrics"]:
        assert {metric[name][number] for name in ("values", "low", "high", "loss")} == {None}
        assert metric["short"][number] == "failed"
    assert data["pictures"]["of_cells"][number] == []


def test_a_run_in_which_every_cell_fails_has_a_page(run, tmp_path):
    def fail(cell: Cell) -> None:
        raise CellFailed("no")

    run(FakeBench(fail))
    data = shown_by(tmp_path)
    assert {value for metric in data["metrics"] for value in metric["values"]} == {None}
    assert data["pictures"] == {"prompts": [], "of_cells": [[]] * 8, "inputs": [], "left_out": ""}
    for spec in specs(data):
        altair.Chart.from_dict(spec)


def test_a_run_without_pictures_has_a_page(run, tmp_path):
    bench = FakeBench()
    bench.prompts = []
    bench.run = lambda cell, on_progress, images: replace(  # type: ignore[method-assign]
        result(cell), thumbnails=np.empty((0, 1, 1, 3), np.uint8)
    )
    run(bench)
    data = shown_by(tmp_path)
    assert data["pictures"] == {"prompts": [], "of_cells": [[]] * 8, "inputs": [], "left_out": ""}
    assert len(data["metrics"]) == 2


def test_a_metric_that_the_store_lacks_has_no_values(finished, tmp_path):
    finished()
    with sqlite3.connect(directory(tmp_path) / "results.sqlite") as database:
        database.execute("UPDATE cells SET metrics = ?", ('{"fid": 1.0}',))
    report(directory(tmp_path), Console(file=io.StringIO()))
    fid, score = shown_by(tmp_path)["metrics"]
    assert (fid["values"], score["values"]) == ([1.0] * 8, [None] * 8)


@pytest.fixture
def opened(finished) -> Iterator[StoredRun]:
    with opened_run(finished()) as found:
        yield found


def test_pictures_have_a_limit_and_a_line_names_what_is_left_out(opened):
    def size(limit: int) -> tuple[int, int, str]:
        found = page_pictures(opened, limit)
        assert {len(some) for some in found.of_cells} == {len(found.prompts)}
        return len(found.prompts), sum(len(url) for some in found.of_cells for url in some), found.left_out

    kept, whole, left_out = size(2**20)
    assert (kept, left_out) == (3, "")
    kept, total, left_out = size(whole - 1)
    assert kept == 2
    assert total < whole
    assert left_out.startswith("The pictures of the first 2 of 3 are shown: a page has at most ")
    kept, total, left_out = size(1000)
    assert (kept, total) == (0, 0)
    assert left_out == (
        "No pictures are shown: a page has at most 0.000954 MiB of pictures. contact_sheet.png has all of them."
    )


def test_large_pictures_are_scaled_down(opened, monkeypatch):
    large = np.zeros((3, 300, 600, 3), np.uint8)
    monkeypatch.setattr(StoredRun, "pictures", lambda self, row: (["a", "b", "c"], large))
    urls = page_pictures(opened).of_cells[0]
    assert pictures_of(list(urls)).shape == (3, 128, 256, 3)


def test_a_damaged_picture_is_left_out_with_a_note(finished, tmp_path):
    finished()
    with sqlite3.connect(directory(tmp_path) / "results.sqlite") as database:
        database.execute("UPDATE cells SET thumbnails = x'00' WHERE rowid = 1")
    with opened_run(directory(tmp_path)) as stored:
        data = page_data(stored, make_table(stored.plan, stored.rows, stored.real))
    assert [len(urls) for urls in data["pictures"]["of_cells"]] == [0, *[3] * 7]
    assert data["notes"][0].startswith(f"the pictures of {data['cells'][0]['label']} cannot be read")


def test_a_page_that_cannot_be_written_is_one_error(finished, tmp_path):
    path = finished() / "report.html"
    path.mkdir()
    with pytest.raises(RunError, match=r"cannot write .*report\.html"):
        report(directory(tmp_path), Console(file=io.StringIO()))


# The layout of heat maps.


def rows(*cells: tuple[str, str, float | None, int]) -> tuple[list[Row], list[float | None]]:
    """Rows from sampler, guidance, scale and steps, and their scales."""
    made = []
    for i, (sampler, guidance, scale, steps) in enumerate(cells):
        options = {} if scale is None else {"scale": scale}
        choice = {"name": guidance, "options": options}
        cell = {"sampler": {"name": sampler}, "grid": {"name": "trailing"}, "guidance": choice, "steps": steps}
        made.append(Row(str(i), Cell.model_validate(cell)))
    return made, [scale for _, _, scale, _ in cells]


def test_a_heat_map_has_steps_across_scales_down_and_a_panel_per_sampler():
    cells = [("ddim", "none", None, 5), ("ddim", "cfg", 3.0, 5), ("ddim", "cfg", 10.0, 10), ("heun", "cfg", 3.0, 5)]
    found = heat_map(*rows(*cells))
    assert (found.across, found.down) == ("steps", "CFG scale")
    assert found.rows == ("10", "3", "none")  # the largest on top, as on a vertical axis
    assert found.panels == ("ddim", "heun")
    assert found.squares == ((5, "none", "ddim"), (5, "3", "ddim"), (10, "10", "ddim"), (5, "3", "heun"))


STRATEGIES = [("ddim", "none", None, 5), ("ddim", "cfg", 3.0, 5), ("ddim", "cfg", 12.0, 5), ("ddim", "apg", 3.0, 5)]


def test_strategies_with_scales_have_panels_of_their_own():
    found = heat_map(*rows(*STRATEGIES, ("ddim", "apg", 3.0, 10)))
    assert found.panels == ("ddim · none", "ddim · cfg", "ddim · apg")


def test_without_steps_to_compare_a_heat_map_has_strategies_by_scale():
    found = heat_map(*rows(*STRATEGIES))
    assert (found.across, found.down, found.panels) == ("CFG scale", "guidance", ("",))
    assert (found.columns, found.rows) == (("none", "3", "12"), ("none", "cfg", "apg"))
    assert found.squares == (("none", "none", ""), ("3", "cfg", ""), ("12", "cfg", ""), ("3", "apg", ""))


def test_colours_tell_samplers_apart_or_the_strategies_of_a_single_sampler(run, tmp_path):
    run()
    assert {cell["group"] for cell in shown_by(tmp_path)["cells"]} == {"ddim", "heun"}
    one = TOML.replace('["ddim", "heun"]', '"ddim"').replace("[5, 10]", "5")
    run(toml=one)
    data = shown_by(tmp_path)
    assert [cell["group"] for cell in data["cells"]] == ["none", "cfg"]
    assert not data["converges"]  # each line has a single cell
    color = data["metrics"][0]["costs"]["passes"]["layer"][-1]["encoding"]["color"]
    assert (color["title"], color["scale"]["domain"]) == ("guidance", ["none", "cfg"])
    run(toml=one.replace("steps = 5", "steps = [5, 7]"))
    assert shown_by(tmp_path)["converges"]


def test_a_heat_map_without_scales_has_samplers_down():
    found = heat_map(*rows(("ddim", "none", None, 5), ("heun", "none", None, 10)))
    assert (found.across, found.down, found.rows, found.panels) == ("steps", "sampler", ("ddim", "heun"), ("",))


def test_no_two_cells_share_a_square(run, tmp_path):
    run(
        toml=TOML.replace(
            '{ name = "cfg", scale = 3.0 }', '{ name = "cfg", scale = 3.0 }, { name = "apg", scale = 5.0 }'
        )
    )
    squares = [(cell["x"], cell["row"], cell["panel"]) for cell in shown_by(tmp_path)["cells"]]
    assert len(set(squares)) == len(squares) == 12


def test_paths_are_thinned_until_they_fit_and_keep_their_ends(run, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), dtype=np.uint8)
    levels = (14.0, 7.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.0)
    bench = FakeBench()
    bench.run = lambda cell, *_: replace(result(cell), previews=Previews(levels, pictures))  # type: ignore[method-assign]
    run(bench)
    assert [[level for level, _ in path] for path in shown_by(tmp_path)["paths"]["of_cells"]] == [
        [f"{level:.3g}" for level in levels]
    ] * 8
    with opened_run(directory(tmp_path)) as stored:
        whole = page_paths(stored)
        size = sum(len(url) for path in whole.of_cells for _, url in path)
        half = page_paths(stored, size // 2)
        none = page_paths(stored, size // 20)
    assert all((path[0][0], path[-1][0]) == ("14", "0") and len(path) == 4 for path in half.of_cells)
    assert sum(len(url) for path in half.of_cells for _, url in path) <= size // 2
    assert not any(none.of_cells)
    assert none.left_out.startswith("Paths would take more than")


def test_a_page_without_previews_has_no_paths(run, tmp_path):
    run()
    paths = shown_by(tmp_path)["paths"]
    assert (any(paths["of_cells"]), paths["left_out"]) == (False, "")
