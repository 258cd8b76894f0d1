"""The documentation: links lead somewhere, made parts are up to date, code runs, and every name is on its page."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import samplers
import sdlab
from sdlab.guidance import GUIDANCE
from sdlab.metrics import METRICS
from sdlab.picture import to_bytes
from sdlab.worlds import scenes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob(".github/*.md"), *DOCS.glob("*.md"), *ROOT.glob("data/**/*.md")])
RUN = [DOCS / f"{name}.md" for name in ("grids", "guidance", "inversion", "models", "metrics", "sweep-files")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_make", DOCS / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# Links


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken(path: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text(path), flags=re.DOTALL)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        if not there.exists() or (anchor and anchor not in anchors(text(there))):
            found.append(target)
    return found


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path):
    assert broken(path) == []


def test_a_broken_link_is_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# A head\n[a](#a-head) [b](#b-head) [c](page.md#a-head) [d](no.md)", encoding="utf-8")
    assert broken(page) == ["#b-head", "no.md"]


def test_every_page_is_in_the_index():
    index = text(DOCS / "index.md")
    for page in [*DOCS.glob("*.md"), *DOCS.glob("*.ipynb")]:
        assert page.name == "index.md" or f"({page.name})" in index


# Made parts


@pytest.mark.parametrize("name", list(make().PARTS))
def test_the_made_part_of_a_page_is_that_of_the_code(name: str):
    page = text(DOCS / name)
    assert page == make().made(page, make().PARTS[name]()), "run `make docs`"


def test_every_strategy_that_can_run_in_the_plane_has_its_picture_and_they_are_small():
    planes = make().planes
    pictures = {path.stem: path for path in (DOCS / "guidance").iterdir()}
    assert set(pictures) == {name for name in GUIDANCE if planes.why_not(name) is None}
    assert sum(path.stat().st_size for path in pictures.values()) < 1_000_000


def test_every_strategy_has_a_certificate_that_holds_and_a_sentence_on_when_it_pays():
    certificates = json.loads(text(DOCS / "guidance.json"))["certificates"]
    assert {one["name"] for one in certificates if one["ok"]} == set(GUIDANCE) == set(make().pays.SENTENCES)


def test_the_numbers_of_a_strategy_are_those_of_its_most_accurate_cell():
    row = "| dpmpp_2m | cfg scale=4 | 20 | 14.37±1.66 ≈ | 0.985±.030 ≈ | 4.19±.35 |"
    assert row in text(DOCS / "results" / "guidance_strategies.md")
    assert "`scale=4`" in make().pays.when("cfg")
    assert "0.985±.030 and diversity 4.19±.35, at 20 passes" in make().pays.when("cfg")


@pytest.mark.parametrize("name", ["apg", "fbg"])
def test_the_picture_of_a_strategy_is_that_of_the_code(name: str):
    with Image.open(DOCS / "guidance" / f"{name}.png") as picture:
        kept = np.asarray(picture.convert("RGB"), dtype=float)
    drawn = np.asarray(make().planes.draw(name), dtype=float)
    plain = np.asarray(make().planes.draw("none"), dtype=float)
    assert np.abs(drawn - kept).mean() < 2 < np.abs(plain - kept).mean(), "run `make docs`"  # of 255; colours are few


def test_a_page_without_a_place_for_its_made_part_is_an_error():
    with pytest.raises(ValueError, match="has no"):
        make().made("# Grids\n", "")


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("samplers.md", samplers.SAMPLERS),
        ("grids.md", samplers.GRIDS),
        ("guidance.md", GUIDANCE),
        ("metrics.md", METRICS),
    ],
)
def test_every_registered_name_has_a_section(page: str, names: dict[str, object]):
    assert set(names) <= anchors(text(DOCS / page))


SWEEPS = sorted(path.stem for path in (ROOT / "experiments").glob("*.toml") if not path.stem.startswith("sd15"))


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_has_a_page_with_its_result(name: str):
    """Those of Stable Diffusion have none, because its weights are not here."""
    title, _, page = text(DOCS / "results" / f"{name}.md").partition("\n")
    assert f"(../../experiments/{name}.toml)" in page
    assert "**Result" in page
    assert re.search(r"^\| .*±", page, re.MULTILINE), "no table"
    assert re.search(
        rf"^\| \[{re.escape(title[2:])}\]\(results/{name}\.md\)", text(DOCS / "experiments.md"), re.MULTILINE
    )


# Code


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(path), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN, ids=name_of)
def test_the_code_of_a_page_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A block that starts with the name of a file is that file. Sweeps with a name run, others are checked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()  # the folder that the page of metrics measures
    for i, pixels in enumerate(to_bytes(scenes.render(scenes.sample(8, torch.Generator().manual_seed(0))))):
        Image.fromarray(pixels.numpy()).save(tmp_path / "pictures" / f"{i}.png")
    sweeps = []
    for language in ("python", "toml"):
        for code in blocks(path, language):
            named = re.match(r"# ([\w.]+)\n", code)
            if named:
                (tmp_path / named[1]).write_text(code, encoding="utf-8")
                sweeps += [named[1]] if language == "toml" else []
            elif language == "python":
                exec(code, {})
            else:
                (tmp_path / "shown.toml").write_text(code, encoding="utf-8")
                sweeps.append("shown.toml --dry-run")
    for sweep in sweeps:
        command = [sys.executable, "-m", "sdlab.cli", "sweep", *sweep.split()]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


# The notebook

NOTEBOOK = DOCS / "tutorial.ipynb"


@pytest.mark.slow
def test_the_notebook_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Words and whole numbers are equal. Others may differ by rounding, which changes what is read in few pictures."""
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    cells = [cell for cell in json.loads(text(NOTEBOOK))["cells"] if cell["cell_type"] == "code"]
    space: dict[str, object] = {}
    number = re.compile(r"[+-]?\d+\.\d+")
    for cell in cells:
        exec("".join(cell["source"]), space)
        shown = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        printed = capsys.readouterr().out
        assert number.sub("", printed) == number.sub("", shown)
        assert list(map(float, number.findall(printed))) == pytest.approx(
            list(map(float, number.findall(shown))), abs=0.03
        )
    assert len(cells) > 4


def test_the_notebook_shows_its_pictures_and_is_small():
    cells = json.loads(text(NOTEBOOK))["cells"]
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert not any(output["output_type"] == "error" for output in outputs)
    assert NOTEBOOK.stat().st_size < 400_000  # 300 kB of pictures are 400 of base64


# Files for the public


def test_the_citation_names_the_version_and_licence_of_the_package():
    citation = yaml.safe_load(text(ROOT / "CITATION.cff"))
    project = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]
    assert citation["version"] == sdlab.__version__.partition(".dev")[0]
    assert citation["license"] == project["license"] == "MIT"
    assert [one["name"] for one in citation["authors"]] == [one["name"] for one in project["authors"]]
    assert citation["repository-code"] == project["urls"]["Homepage"]
    assert citation["cff-version"] == "1.2.0"


def test_the_workflow_runs_every_supported_python():
    workflow = yaml.safe_load(text(ROOT / ".github/workflows/ci.yml"))
    project = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]
    named = {line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)}
    check = workflow["jobs"]["check"]
    assert set(check["strategy"]["matrix"]["python"]) == named
    commands = [step["run"] for step in check["steps"] if "run" in step]
    targets = re.findall(r"^(\w+):", text(ROOT / "Makefile"), re.MULTILINE)
    assert commands
    assert all(command.split()[1] in targets for command in commands)


@pytest.mark.parametrize("package", ["samplers", "sdlab"])
def test_a_package_has_a_py_typed_marker(package: str):
    assert (ROOT / package / "py.typed").is_file()


def test_every_template_is_valid():
    for path in [*ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"), ROOT / ".pre-commit-config.yaml"]:
        assert yaml.safe_load(text(path))
    for path in ROOT.glob(".github/ISSUE_TEMPLATE/[!c]*.yml"):
        assert {"name", "description", "body"} <= yaml.safe_load(text(path)).keys()
