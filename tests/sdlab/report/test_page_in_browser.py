"""report.html of 500 cells in headless Chromium: it sorts, filters, selects and opens pictures, and loads nothing."""

import base64
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bench import FakeBench
from rich.console import Console
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from sdlab.commands.sweep import sweep
from sdlab.sweep.cell import Cell
from sdlab.sweep.previews import Previews
from sdlab.sweep.results import CellResult

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="Chromium and its driver are not installed"),
]

SCALES = (1.5, 2, 3, 4, 5, 7, 9, 12, 15)
HOSTILE = '<img src="https://example.org/x.png" onerror="document.title = 1">'
TOML = f"""
model = "scenes"
images = 16
device = "cpu"
metrics = ["fid", "clip_score"]
[prompts]
list = ['{HOSTILE}', "a blue star", "a green moon"]
[cells]
sampler = ["ddim", "heun", "ddpm", "dpmpp_2m", "euler_ancestral", "dpmpp_sde", "unipc", "dpmpp_2s", "lms", "euler"]
guidance = ["none", {", ".join(f'{{ name = "cfg", scale = {float(scale)} }}' for scale in SCALES)}]
steps = [5, 10, 20, 40, 80]
"""
FAILED = "lms · trailing · none · 5 steps"


class Followed(FakeBench):
    """Cells with previews and an error along σ."""

    def run(self, cell: Cell, on_progress: Callable[[float], None], images: range) -> CellResult:
        found = super().run(cell, on_progress, images)
        previews = Previews((14.6, 2.0, 0.0), found.thumbnails[:3])
        return replace(found, previews=previews, error_path=np.array([[2.0, 0.0], [0.5, 1 / cell.steps]]))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep of 500 cells, one of which failed."""
    from fake_bench import fail_on

    folder = tmp_path_factory.mktemp("page")
    (folder / "big.toml").write_text(TOML, encoding="utf-8")
    bench = Followed(fail_on(FAILED, HOSTILE))
    bench.prompts = [HOSTILE, "a blue star", "a green moon"]
    console = Console(file=io.StringIO())
    sweep(folder / "big.toml", lambda plan: "weights", lambda plan: bench, out=folder / "runs", console=console)
    return folder / "runs" / "big" / "report.html"


@pytest.fixture(scope="module")
def data(report: Path) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', report.read_text(encoding="utf-8"))
    assert found is not None
    return json.loads(found[1])


class Page:
    """A browser with the page."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def open(self, path: Path) -> None:
        """Load the page and wait until all views are drawn."""
        self.browser.get(path.as_uri())
        self.until(lambda: self.browser.execute_script("return document.body.dataset.ready"))

    def until(self, holds: Callable[[], object], seconds: float = 60) -> None:
        """Wait until something holds."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.1)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        found = self.all(selector)[0]
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        return found

    def act(self) -> ActionChains:
        return ActionChains(self.browser)

    @property
    def state(self) -> str:
        """`"500 cells, 2 selected"`."""
        return self.one("#state").text

    def expect(self, state: str) -> None:
        self.until(lambda: self.state == state)

    def filter(self, heading: str, text: str) -> None:
        """Type into the filter below a heading."""
        column = next(one for one in self.all(".tabulator-col") if one.text.strip() == heading)
        column.find_element(By.CSS_SELECTOR, "input").send_keys(text)

    def shown(self, selector: str) -> int:
        """How many elements of a selector are drawn."""
        return len(self.all(selector))

    def tiles(self) -> list[int]:
        """The cells whose pictures are shown, in order."""
        return self.browser.execute_script(
            "return [...document.querySelectorAll('#sheet .tile')].map((tile) => Number(tile.dataset.cell))"
        )

    def complaints(self) -> list[str]:
        """The messages in the console since the last call."""
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def loaded(self) -> list[str]:
        """The addresses that were requested since the last call, except data that the page contains."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    page = Page()
    yield page
    page.browser.quit()


@pytest.fixture
def page(browser: Page, report: Path) -> Iterator[Page]:
    """The page. At the end nothing else was loaded, the console is empty, and no text of the run became a script."""
    browser.complaints(), browser.loaded()
    browser.open(report)
    yield browser
    assert browser.complaints() == []
    assert browser.loaded() == [report.as_uri()]
    assert browser.browser.title == "big"


POINTS = "#passes .points_marks path"


def test_a_page_of_500_cells_is_below_5_megabytes_without_pictures(report, data):
    pictures = sum(len(url) for urls in data["pictures"]["of_cells"] for url in urls)
    previews = sum(len(url) for path in data["paths"]["of_cells"] for _, url in path)
    assert report.stat().st_size - pictures - previews < 5e6


def test_paths_and_errors_along_sigma_follow_the_filters_and_select_cells(page):
    assert page.shown("#path-rows .path") == 499  # one failed
    assert page.shown("#path-rows img") == 3 * 499
    assert page.shown("#errors .stops_marks path") == 2 * 499
    page.filter("sampler", "heun")
    page.until(lambda: page.shown("#path-rows .path") == 50)
    page.until(lambda: page.shown("#errors .stops_marks path") == 2 * 50)
    page.one("#path-rows .name").click()
    page.expect("50 of 500 cells, 1 selected")
    assert page.shown("#path-rows .picked") == page.shown("#sheet .tile.picked") == 1


def test_all_views_show_all_cells(page, data):
    assert page.state == "500 cells"
    assert page.shown(POINTS) == page.shown("#seconds .points_marks path") == 499  # one failed
    assert page.shown("#heat .squares_marks path, #heat .child_layer_0_marks path") == 499
    assert page.shown("#sheet .tile") == 500
    assert page.shown("#sheet img") == 499
    assert HOSTILE in [tile.text for tile in page.all("#sheet .missing")]
    assert {term.text for term in page.all("#protocol dt")} == set(data["protocol"])


def test_the_table_sorts_and_the_pictures_follow(page, data):
    heading = next(one for one in page.all(".tabulator-col-title") if one.text.startswith("FID"))
    values = data["metrics"][0]["values"]
    known = sorted(value for value in values if value is not None)
    for order in (known, known[::-1]):
        heading.click()
        page.until(lambda order=order: [values[i] for i in page.tiles()] == [*order, None])  # missing values are last
        assert page.one(".tabulator-row").text.startswith(data["cells"][page.tiles()[0]]["sampler"])


def test_filters_leave_their_cells_in_all_views(page, data):
    page.filter("sampler", "heun")
    page.expect("50 of 500 cells")
    page.filter("steps", "10..40")
    page.expect("30 of 500 cells")
    page.until(lambda: page.shown(POINTS) == 30)
    assert page.shown("#sheet .tile") == page.shown(".tabulator-row") == 30
    page.filter("passes", ">=39")
    passes = [cell["passes"] for cell in data["cells"] if cell["sampler"] == "heun" and 10 <= cell["steps"] <= 40]
    page.expect(f"{sum(count >= 39 for count in passes)} of 500 cells")


def test_a_selection_in_one_view_is_the_selection_of_all(page):
    page.act().move_to_element(page.one(POINTS)).click().perform()
    page.expect("500 cells, 1 selected")
    assert page.shown("#sheet .picked") == 1
    page.until(lambda: page.shown(".tabulator-selected") == 1)  # the table scrolls to the row
    page.until(lambda: [float(one.get_attribute("opacity") or 1) for one in page.all(POINTS)].count(1) == 1)
    page.one("#clear").click()
    page.expect("500 cells")
    page.until(lambda: page.shown(".tabulator-selected") == 0)
    page.filter("sampler", "heun")
    page.filter("steps", "5")  # few enough for the table to draw all rows
    page.expect("10 of 500 cells")
    page.one("#sheet .tile:nth-child(7) .name").click()
    page.expect("10 of 500 cells, 1 selected")
    assert page.shown(".tabulator-selected") == 1
    page.all(".tabulator-row")[3].click()
    page.expect("10 of 500 cells, 2 selected")
    page.one("#only-selected").click()
    assert page.shown("#sheet .tile") == 2


def test_a_sampler_in_a_legend_and_a_dragged_rectangle_select_cells(page, data):
    label = page.one("#passes .role-legend-label text")
    page.act().move_to_element(label).click().perform()
    page.expect("500 cells, 50 selected")
    chart = page.one("#seconds svg")
    page.act().move_to_element_with_offset(chart, -150, -60).click_and_hold().move_by_offset(150, 90).pause(
        0.3
    ).release().perform()
    page.until(lambda: page.state != "500 cells, 50 selected")
    chosen = page.shown("#sheet .picked")
    assert 0 < chosen < 500
    assert page.state == f"500 cells, {chosen} selected"
    assert data["metrics"][0]["name"] == "fid"


def test_a_picture_opens_and_keys_go_to_others(page, data):
    page.one("#sheet .tile img").click()
    page.until(lambda: page.one("#viewer").is_displayed())
    assert page.one("#viewer-name").text == data["cells"][0]["label"]
    assert page.one("#viewer-prompt").text == HOSTILE
    assert page.one("#viewer-picture").get_attribute("src") == data["pictures"]["of_cells"][0][0]
    page.act().send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN).perform()
    assert page.one("#viewer-name").text == data["cells"][1]["label"]
    assert page.one("#viewer-picture").get_attribute("src") == data["pictures"]["of_cells"][1][1]
    page.act().send_keys(Keys.ESCAPE).perform()
    page.until(lambda: not page.one("#viewer").is_displayed())
    assert Select(page.one("#prompt")).first_selected_option.text == "2. a blue star"


def test_the_dashed_line_is_the_pareto_front(page, data):
    for number, metric in enumerate(data["metrics"]):
        Select(page.one("#metric")).select_by_index(number)
        page.until(lambda text=metric["heading"]: text in page.one("#passes").text)
        found = page.browser.execute_script(
            "const of = (s) => [...document.querySelectorAll(s)];"
            "return [of('#passes .front_marks path').map((path) => path.getAttribute('d')).join(),"
            f"of('{POINTS}').map((path) => path.getAttribute('transform'))]"
        )
        path, transforms = found
        corners = places(path)[::2]  # the others are those of the steps between
        points = [places(transform)[0] for transform in transforms]
        cells = [cell for cell in data["cells"] if metric["values"][cell["cell"]] is not None]
        values = [(cell["passes"], metric["loss"][cell["cell"]]) for cell in cells]
        front = {one for one in values if not any(dominates(other, one) for other in values)}
        expected = {point for value, point in zip(values, points, strict=True) if value in front}
        assert set(corners) == expected


def places(text: str) -> list[tuple[float, float]]:
    """The pairs of numbers in an SVG path or transform, to a tenth of a pixel."""
    return [(round(float(x), 1), round(float(y), 1)) for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", text)]


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] <= b[0] and a[1] <= b[1]


def test_a_page_is_printed_whole_on_white(page, data):
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    assert page.browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", **dark})
    assert page.browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    pdf = page.browser.execute_cdp_cmd("Page.printToPDF", {})
    assert base64.b64decode(pdf["data"]).startswith(b"%PDF")
    rows = page.all("#printed tbody tr")
    assert len(rows) == 500  # not only those in view
    assert not page.one("#table").is_displayed()
    assert rows[0].text.split() == [column["texts"][0] for column in data["columns"] if column["people"]]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
