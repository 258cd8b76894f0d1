"""Some rows and columns of a run's table, in any order and format."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fake_bench import TOML
from rich.console import Console

from sdlab.report.formats import FORMATS
from sdlab.report.latex import escaped, latex
from sdlab.report.stored_run import opened_run
from sdlab.report.view import View, print_view
from sdlab.sweep.run import PLAN
from sdlab.sweep.store import Store
from sdlab.system.errors import UsageError

SCALES = TOML.replace("3.0 }", '3.0 }, { name = "cfg", scale = 7.0 }')
HOSTILE = r"\input{x} $a_1^2$ %c & #1 ~ {[*]} \\[2pt] <b>'\"` |x| [y](z) =1+1 ?` !` -- ,, é 中 🙂" + "\x1b[31m\u202e\n"


@pytest.fixture
def directory(finished: Callable[..., Path]) -> Path:
    """A run of 2 samplers × 3 guidances × 2 numbers of steps."""
    return finished(SCALES)


def cells(directory: Path, **options: str) -> list[dict[str, Any]]:
    with opened_run(directory) as run:
        return json.loads(FORMATS["json"](View(**options).of(run)))


def wrong(directory: Path, **options: str) -> str:
    with opened_run(directory) as run, pytest.raises(UsageError) as caught:
        View(**options).of(run)
    (line,) = caught.value.lines
    return line


def printed(directory: Path, capsys: pytest.CaptureFixture[str], **options: str) -> str:
    print_view(directory, View(**options), Console())
    return capsys.readouterr().out


# Rows


@pytest.mark.parametrize(
    ("text", "keeps"),
    [
        ("sampler=ddim steps>=10", lambda one: one["sampler"] == "ddim" and one["steps"] >= 10),
        ("steps < 10", lambda one: one["steps"] < 10),
        ("guidance=cfg", lambda one: one["guidance"].startswith("cfg")),
        ('guidance="cfg scale=3"', lambda one: one["guidance"] == "cfg scale=3"),
        ("guidance!=cfg", lambda one: one["guidance"] == "none"),
        ("guidance=none,cfg scale!=3", lambda one: one["guidance"] != "cfg scale=3"),
        ("scale>3", lambda one: one["guidance"] == "cfg scale=7"),
        ("guidance.scale=3.0", lambda one: one["guidance"] == "cfg scale=3"),
        ("passes<=10", lambda one: one["network_passes"] <= 10),
        ("fid<20 status==ok", lambda one: one["fid"] < 20),
        ("", lambda one: True),
    ],
)
def test_a_filter_keeps_the_cells_that_meet_all_conditions(text: str, keeps: Callable[[Any], bool], directory: Path):
    every = cells(directory)
    wanted = [one["key"] for one in every if keeps(one)]
    assert [one["key"] for one in cells(directory, filter=text)] == wanted
    assert 0 < len(wanted) <= 12


def test_the_best_is_that_of_the_shown_cells_and_the_caption_says_how_many(directory: Path):
    with opened_run(directory) as run:
        table = View(filter="steps=5").of(run)
    assert "6 of the 12 cells of the run are shown. ★ is the best of those shown." in table.caption
    fid = next(column for column in table.columns if column.name == "fid")
    best = [value for value, field in zip(fid.values, fid.fields, strict=True) if field.mark == "★"]
    assert best == [min(fid.values)]


def test_intervals_of_shown_cells_hold_for_all_cells_of_the_run(directory: Path):
    """Choosing what to show after seeing the results makes no pair distinguishable that was not."""
    whole = {one["key"]: one for one in cells(directory)}
    best = min(whole.values(), key=lambda one: one["fid"])
    some = cells(directory, filter=f"steps={best['steps']}")
    assert best["key"] in {one["key"] for one in some}
    for one in some:
        assert [one["fid_low"], one["fid_high"]] == [whole[one["key"]]["fid_low"], whole[one["key"]]["fid_high"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter": "sampller=ddim"}, "--filter: unknown column 'sampller' (did you mean 'sampler'?); known: "),
        ({"filter": "steps>=ten"}, "--filter: steps>=ten: 'ten' is not a number"),
        ({"filter": "sampler>ddim"}, "--filter: sampler has words, which cannot be compared with >; use = or !="),
        ({"filter": "steps"}, "--filter: cannot read 'steps'; write it like \"sampler=ddim steps>=10\""),
        ({"filter": "sampler=lms"}, "--filter: none of the 12 cells matches 'sampler=lms'"),
        ({"sort": "fids"}, "--sort: unknown column 'fids' (did you mean 'fid'?); known: "),
        ({"columns": " , "}, '--columns: name at least one column, like "sampler,steps,fid"'),
        ({"columns": "fid,\x1b[2J"}, "--columns: unknown column '\\x1b[2J'; known: "),
        ({"pivot": "steps x scale"}, '--pivot and --value go together: --pivot "steps x scale" --value fid'),
        ({"value": "fid"}, '--pivot and --value go together: --pivot "steps x scale" --value fid'),
        ({"pivot": "steps", "value": "fid"}, "--pivot: write two settings like \"steps x scale\", got 'steps'"),
        ({"pivot": "steps x fid", "value": "fid"}, "--pivot: fid is not a setting; choose steps, sampler, guidance."),
        ({"pivot": "steps x steps", "value": "fid"}, "--pivot: both settings are steps; name two"),
        ({"pivot": "a x b", "value": "fid", "columns": "fid"}, "--pivot chooses the columns itself; leave out --col"),
    ],
)
def test_a_mistake_is_one_line(options: dict[str, str], message: str, directory: Path):
    assert wrong(directory, **options).startswith(message)


def test_an_unknown_format_is_reported_before_the_run_is_read(tmp_path: Path):
    with pytest.raises(UsageError, match=r"^--format: unknown format 'cvs' \(did you mean 'csv'\?\)"):
        print_view(tmp_path / "no", View(format="cvs"), Console())


def test_rows_are_sorted_by_several_columns(directory: Path):
    found = cells(directory, sort="-sampler,fid")
    assert [one["sampler"] for one in found] == ["heun"] * 6 + ["ddim"] * 6
    for sampler in ("heun", "ddim"):
        values = [one["fid"] for one in found if one["sampler"] == sampler]
        assert values == sorted(values)
    scales = [one["guidance.scale"] for one in cells(directory, sort="-scale")]
    assert scales == [7.0] * 4 + [3.0] * 4 + [None] * 4


def test_columns_are_those_named_in_their_order(directory: Path, capsys: pytest.CaptureFixture[str]):
    found = cells(directory, columns="fid_stderr,passes,sampler")
    assert list(found[0]) == ["fid_stderr", "network_passes", "sampler"]
    lines = printed(directory, capsys, format="md", columns="steps,clip_score").splitlines()
    assert lines[2] == "| steps | CLIP score ↑ |"


# Pivot


def test_a_pivot_shows_one_value_over_two_settings_beside_the_others(directory: Path):
    every = {(one["sampler"], one["steps"], one["guidance.scale"]): one["fid"] for one in cells(directory)}
    found = cells(directory, pivot="steps x scale", value="fid", filter="guidance=cfg")
    assert [(one["sampler"], one["steps"]) for one in found] == [("ddim", 5), ("ddim", 10), ("heun", 5), ("heun", 10)]
    for one in found:
        for scale in (3, 7):
            assert one[f"guidance.scale={scale}"] == every[one["sampler"], one["steps"], scale]


def test_a_pivot_leaves_places_empty_that_no_cell_has(directory: Path):
    found = cells(directory, pivot="steps × scale", value="fid", filter="sampler=ddim")
    assert [(one["guidance"], one["steps"]) for one in found] == [("none", 5), ("none", 10), ("cfg", 5), ("cfg", 10)]
    assert all((one["guidance.scale=3"] is None) is (one["guidance"] == "none") for one in found)
    assert all((one["guidance.scale=–"] is None) is (one["guidance"] == "cfg") for one in found)


def test_a_pivot_of_whole_settings_has_errors_and_marks_for_people(directory: Path):
    with opened_run(directory) as run:
        text = FORMATS["md"](View(pivot="sampler x guidance", value="fid", filter="steps=10").of(run))
    lines = text.splitlines()
    assert lines[2] == "| sampler | guidance none | guidance cfg scale=3 | guidance cfg scale=7 |"
    assert sum("★" in line for line in lines if line.startswith("|")) == 1
    assert all(line.count("±") == 3 for line in lines[4:6])


# Formats


def test_programs_get_every_value_with_its_type(directory: Path, capsys: pytest.CaptureFixture[str]):
    found = cells(directory)
    table = list(csv.DictReader(io.StringIO(printed(directory, capsys, format="csv"))))
    assert [list(one) for one in table] == [list(one) for one in found]
    for text, one in zip(table, found, strict=True):
        for name, value in one.items():
            assert text[name] == "" if value is None else text[name] == value or float(text[name]) == value
    assert (found[0]["budget"], found[0]["steps"], found[0]["fid_standing"]) == (None, 5, "behind")


def test_parquet_without_its_package_is_one_line(directory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError) as caught:
        print_view(directory, View(format="parquet"), Console())
    assert caught.value.lines == ["--format parquet needs the package pyarrow: pip install 'sdlab[parquet]'"]


def test_parquet_has_the_values_of_json(directory: Path, capfdbinary: Any):
    parquet = pytest.importorskip("pyarrow.parquet")
    print_view(directory, View(format="parquet"), Console())
    assert parquet.read_table(io.BytesIO(capfdbinary.readouterr().out)).to_pylist() == cells(directory)


def test_parquet_is_not_written_to_a_terminal(directory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(FORMATS, "parquet", lambda table: b"PAR1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(UsageError, match=r"--format parquet is not text; redirect it to a file: > quick\.parquet$"):
        print_view(directory, View(format="parquet"), Console())


def test_a_view_writes_no_file(directory: Path, capsys: pytest.CaptureFixture[str]):
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    for form in ("table", "md", "csv", "json", "latex", "html"):
        assert "ddim" in printed(directory, capsys, format=form)
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_a_folder_without_results_stays_empty(tmp_path: Path):
    with pytest.raises(UsageError, match=r"has no results: results\.sqlite is missing$"):
        print_view(tmp_path, View(format="csv"), Console())
    assert list(tmp_path.iterdir()) == []


# Hostile names


@pytest.fixture
def hostile(directory: Path) -> Path:
    """The run with a hostile name for its sampler, an option, its value, and the run itself."""
    with Store(directory / "results.sqlite") as store:
        plan = json.loads(store.note(PLAN) or "")
        plan["name"] = HOSTILE
        for cell in plan["cells"]:
            cell["sampler"] = {"name": HOSTILE, "options": {HOSTILE: HOSTILE, "eta": 1}}
        store.set_note(PLAN, json.dumps(plan))
        for key, cell in store._db.execute("SELECT key, cell FROM cells").fetchall():
            changed = {**json.loads(cell), "sampler": plan["cells"][0]["sampler"]}
            store._db.execute("UPDATE cells SET cell = ? WHERE key = ?", (json.dumps(changed), key))
    return directory


VIEWS = [{}, {"pivot": "sampler x guidance", "value": "fid"}, {"pivot": "steps x sampler", "value": "fid"}]


@pytest.mark.parametrize("options", VIEWS)
@pytest.mark.parametrize("form", [name for name in FORMATS if name != "parquet"] + ["table"])
def test_no_format_prints_control_characters(form: str, options: dict[str, str], hostile: Path, capsys: Any):
    out = printed(hostile, capsys, format=form, **options)
    assert "input" in out
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", out)


@pytest.mark.parametrize("options", VIEWS)
def test_a_hostile_name_is_exact_in_json(options: dict[str, str], hostile: Path):
    found = cells(hostile, **options)
    texts = [text for one in found for pair in one.items() for text in pair if isinstance(text, str)]
    assert any(HOSTILE in text for text in texts)


@pytest.mark.parametrize("options", VIEWS)
def test_latex_has_balanced_groups_known_commands_and_whole_rows(options: dict[str, str], hostile: Path):
    with opened_run(hostile) as run:
        table = View(**options).of(run)
    check_latex(latex(table), len(table.for_people))


def test_the_check_of_latex_finds_faults():
    good = "\\begin{tabular}{lr}\n\\toprule\na & b \\\\\n\\bottomrule\n\\end{tabular}\n"
    check_latex(good, 2)
    for row in ("a & b & c", "a_1 & b", "\\input{x} & b", "{a & b", "a & 中", "a \\\\[2pt] & b", "[a & b", "$a & b"):
        with pytest.raises(AssertionError):
            check_latex(good.replace("a & b", row), 2)


COMMANDS = {
    "begin", "end", "toprule", "midrule", "bottomrule", "centering", "caption", "par", "smallskip", "linewidth",
    "footnotesize", "footnote", "textbf", "textbackslash", "textasciitilde", "textasciicircum", "textless",
    "textgreater", "textbar", "textasciigrave", "ldots", "S",
}  # fmt: skip
MATHS = {"pm", "times", "div", "cdot", "star", "approx", "le", "ge", "infty", "uparrow", "downarrow", "surd"}


def check_latex(text: str, columns: int) -> None:
    """Whether a table compiles, as far as groups, commands, formulas and rows go."""
    body = check_latex_text(text)
    rows = re.findall(r"^(.*) \\\\$", body, re.MULTILINE)
    assert rows
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}
    assert not any(row.startswith(("[", "*")) for row in rows)


def check_latex_text(text: str) -> str:
    """A small parser of what this package writes. Returns the text without comments."""
    body = "\n".join(line for line in text.split("\n") if not line.startswith("%"))
    assert body.isascii()
    depth, environments, formula = 0, list[str](), False
    for match in re.finditer(r"\\([A-Za-z]+)|\\(.)|\$|[{}^_~#%&]", body, re.DOTALL):
        word, sign, one = match[1], match[2], match[0]
        if word in ("begin", "end"):
            name = re.match(r"\{(\w+)\}", body[match.end() :])
            assert name
            if word == "begin":
                environments.append(name[1])
            else:
                assert environments.pop() == name[1]
        elif word:
            assert word in (MATHS if formula else COMMANDS), word
        elif sign:
            assert sign in "&%$#_{}\\"
            assert sign != "\\" or body[match.end()] == "\n", "an argument after the end of a row"
        elif one == "$":
            formula = not formula
        elif one in "{}":
            depth += 1 if one == "{" else -1
            assert depth >= 0
        else:
            assert one == "&" or (formula and one in "^_"), one
    assert (depth, environments, formula) == (0, [], False)
    return body


def test_latex_writes_signs_as_commands_and_unknown_letters_as_escapes():
    assert escaped("3.21±.20 ★ a_b 50% é中") == (
        r"3.21$\pm$.20 $\star$ a\_b 50\% \textbackslash{}xe9\textbackslash{}u4e2d"
    )
    assert escaped("-- ?` [x]") == r"{-}{-} {?}\textasciigrave{} {[}x{]}"


@pytest.mark.parametrize("options", VIEWS)
def test_html_has_no_elements_from_names_and_loads_nothing(options: dict[str, str], hostile: Path):
    with opened_run(hostile) as run:
        table = View(**options).of(run)
    page = FORMATS["html"](table)
    assert isinstance(page, str)
    tags, texts = list[tuple[str, Any]](), list[str]()

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: Any) -> None:
            tags.append((tag, attributes))

        def handle_data(self, data: str) -> None:
            texts.append(data)

    Reader().feed(page)
    assert {tag for tag, _ in tags} <= {
        "html", "head", "meta", "title", "style", "body", "table", "caption", "thead", "tbody", "tr", "th", "td", "p",
        "strong",
    }  # fmt: skip
    assert {name for _, attributes in tags for name, _ in attributes} <= {
        "lang", "charset", "http-equiv", "content", "scope", "class",
    }  # fmt: skip
    assert "<b>'" in "".join(texts)
    assert len([tag for tag, _ in tags if tag == "td"]) == len(table.for_people) * len(table.columns[0].values)


@pytest.mark.parametrize("options", VIEWS)
def test_markdown_keeps_the_number_of_columns(options: dict[str, str], hostile: Path, capsys: Any):
    lines = [line for line in printed(hostile, capsys, format="md", **options).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_a_mistake_with_hostile_names_is_one_harmless_line(hostile: Path):
    line = wrong(hostile, filter="\x1b[2J=1")
    assert line.startswith("--filter: unknown column '\\x1b[2J'")
    assert not re.search("[\x00-\x1f\u202e]", line)
