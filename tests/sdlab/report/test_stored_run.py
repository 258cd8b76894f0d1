"""Reports of damaged or untrusted runs. They show what can be read and name the rest."""

from __future__ import annotations

import io
import json
import os
import pickle
import sqlite3
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_bench import TOML
from PIL import Image
from rich.console import Console

from sdlab.report.run_report import report
from sdlab.system.errors import RunError

Change = Callable[[sqlite3.Connection], object]
LABEL = "ddim · trailing · none · 5 steps"  # the first cell


@pytest.fixture
def directory(finished: Callable[..., Path], no_plots: None) -> Path:
    """A complete run of 8 cells that compares the steps."""
    return finished(TOML.replace("[prompts]", 'compare = "steps"\n[prompts]'))


def told(directory: Path, *changes: Change) -> str:
    """What the report prints after these changes to the store, as one line."""
    with sqlite3.connect(directory / "results.sqlite") as db:
        for change in changes:
            change(db)
    console = Console(file=io.StringIO(), width=200)
    report(directory, console)
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def plan(change: Callable[[dict], object]) -> Change:  # type: ignore[type-arg]
    """A change of the stored plan."""

    def edit(db: sqlite3.Connection) -> None:
        [text] = db.execute("SELECT value FROM notes WHERE name = 'plan.json'").fetchone()
        fields = json.loads(text)
        change(fields)
        db.execute("UPDATE notes SET value = ? WHERE name = 'plan.json'", (json.dumps(fields),))

    return edit


def first(column: str, value: object) -> Change:
    """A value of the first cell."""
    return lambda db: db.execute(f"UPDATE cells SET {column} = ? WHERE rowid = 1", (value,))


def npz(values: object) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, clip_score=values)  # type: ignore[arg-type]
    return buffer.getvalue()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("cell", "no JSON"),
        ("cell", "[" * 100_000),
        ("cell", "{}"),
        ("metrics", '{"fid": "low"}'),
        ("metrics", b"\xff\xfe"),
        ("stderr", '{"fid": -1}'),
        ("provenance", "7"),
        ("ms_per_pass", "fast"),
        ("per_image", b"PK"),
        ("per_image", npz(np.zeros(17))),
        ("per_image", npz(np.zeros((16, 2)))),
        ("per_image", npz(np.full(16, np.nan))),
        ("per_image", npz(np.full(16, 1e308))),
        ("replicates", npz(np.full((2, 5), -np.inf))),
        ("per_image", npz(np.array(["a"] * 16))),
        ("per_image", npz(np.array([Evil()] * 16, dtype=object))),
        ("per_image", pickle.dumps(Evil())),
    ],
)
def test_a_cell_that_cannot_be_read_is_named_and_the_others_are_shown(
    directory: Path, column: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    text = told(directory, first(column, value))
    assert f"note: the values of {LABEL} cannot be read: " in text
    assert f"failed: {LABEL}: cannot be read: " in text
    assert text.count("failed") == 3  # in the caption, and for both metrics in its row
    assert "Error: " not in text  # names of Python
    assert not (tmp_path / "executed").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_values_of_any_type_are_read(directory: Path, dtype: type):
    assert "cannot be read" not in told(directory, first("per_image", npz(np.arange(16).astype(dtype))))


@pytest.mark.slow
def test_values_that_would_fill_the_memory_are_not_read(directory: Path):
    buffer = npz(np.zeros(2**28, np.float64))  # 2 GiB, in 2 MB
    tracemalloc.start()
    text = told(directory, first("per_image", buffer))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"the values of {LABEL} cannot be read: 2048 MiB of values" in text
    assert most < 2**28


@pytest.mark.parametrize("size", [(14_000, 14_000), (13_000, 13_000), (7, 5)])
def test_pictures_of_another_size_are_not_unpacked(directory: Path, size: tuple[int, int]):
    buffer = io.BytesIO()
    Image.new("1", size).save(buffer, "PNG")
    text = told(directory, first("thumbnails", buffer.getvalue()))
    assert f"note: the pictures of {LABEL} cannot be read: " in text
    assert (directory / "contact_sheet.png").is_file()


def test_an_unknown_sampler_is_shown_under_its_name(directory: Path):
    def rename(db: sqlite3.Connection) -> None:
        db.execute("UPDATE cells SET cell = replace(cell, '\"ddim\"', '\"mine.py:Mine\"')")
        db.execute("UPDATE notes SET value = replace(value, '\"ddim\"', '\"mine.py:Mine\"')")

    text = told(directory, rename)
    assert "mine.py:Mine" in text
    assert "differences in steps" in text


@pytest.mark.parametrize(
    "compare", ["sampler.variant", "beauty", "beauty.eyes", "steps.size", "strength.x", "passes", ""]
)
def test_unknown_metrics_and_comparisons_do_no_harm(directory: Path, compare: str):
    text = told(directory, plan(lambda fields: fields.update(metrics=["fid", "beauty"], compare=compare)))
    assert "★" in text
    assert "note: unknown metrics are not shown: beauty" in text


@pytest.mark.parametrize(
    "change",
    [
        plan(lambda fields: fields.update(cells=7)),
        plan(lambda fields: fields.update(keys=[[]])),
        plan(lambda fields: fields["keys"].pop()),
        plan(lambda fields: fields.update(images=10**12)),
        plan(lambda fields: fields.pop("model")),
        plan(lambda fields: fields.update(prompts=["\ud83d"])),
        lambda db: db.execute("UPDATE notes SET value = '[]' WHERE value LIKE '%cells%'"),
        lambda db: db.execute(f"UPDATE notes SET value = '{'[' * 100_000}' WHERE value LIKE '%cells%'"),
    ],
)
def test_a_damaged_plan_is_one_line(directory: Path, change: Change):
    with pytest.raises(RunError, match=r"contains a damaged plan"):
        told(directory, change)


@pytest.mark.parametrize(
    "statements",
    [
        "ALTER TABLE cells RENAME TO old; CREATE VIEW cells AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1"
        " FROM r) SELECT old.*, n FROM old, r",
        "CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM cells; END",
        "ALTER TABLE cells RENAME COLUMN reason TO old; ALTER TABLE cells ADD COLUMN reason TEXT AS (printf('%.*c',"
        " 100000000, 'x'))",
    ],
)
def test_code_in_the_store_is_not_run(directory: Path, statements: str):
    with pytest.raises(RunError, match="was not written by sdlab"):
        told(directory, lambda db: db.executescript(statements))
    with sqlite3.connect(directory / "results.sqlite") as db:
        kept = "old" if "VIEW" in statements else "cells"
        assert db.execute(f"SELECT count(*) FROM {kept}").fetchone() == (8,)


def test_long_names_and_prompts_do_not_widen_the_contact_sheet(directory: Path):
    long = "a" * 1_000_000
    told(
        directory,
        lambda db: db.execute("UPDATE cells SET prompts = ?", (json.dumps([long] * 3),)),
        lambda db: db.execute("UPDATE cells SET cell = replace(cell, 'ddim', ?)", (long[:10_000],)),
    )
    assert max(Image.open(directory / "contact_sheet.png").size) < 2000
