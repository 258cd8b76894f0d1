"""A sweep in shards, merged, is the sweep on one machine."""

import json
import sqlite3
from pathlib import Path

import pytest
from fake_bench import TOML, FakeBench, fail_on
from older_store import made_older
from same_values import assert_same_values

from sdlab.cli import _status
from sdlab.sweep.merge import merge
from sdlab.sweep.passes import counted
from sdlab.sweep.plan import load_plan
from sdlab.sweep.shard import Shard
from sdlab.sweep.store import Damaged, Store
from sdlab.system.errors import UsageError

EXACT = """
model = "mixture"
images = 200
metrics = ["reference_error"]

[cells]
sampler = ["euler", "heun", "dpm_2m_sde"]
steps = [2, 5, 11]
"""


@pytest.fixture
def run(run, no_files):
    """Reports are tested elsewhere."""
    return run


def shards(tmp_path: Path, count: int) -> list[Path]:
    return [tmp_path / "runs" / f"quick-{i}-of-{count}" for i in range(1, count + 1)]


@pytest.mark.parametrize("count", [1, 2, 3, 9, 20])
def test_every_cell_is_in_one_shard_and_shards_cost_about_the_same(tmp_path, count):
    path = tmp_path / "exact.toml"
    path.write_text(EXACT, encoding="utf-8")
    plan = load_plan(path)
    parts = [Shard(i, count).cells(plan) for i in range(1, count + 1)]
    assert sorted(i for part in parts for i in part) == list(range(len(plan.cells)))
    passes = [counted(plan, cell)[0] for cell in plan.cells]
    loads = [sum(passes[i] for i in part) for part in parts]
    assert max(loads) - min(loads) <= max(passes)  # a bound of the greedy division; in order it would be 44 of 118


@pytest.mark.slow
def test_merged_shards_are_the_sweep_on_one_machine(tmp_path, capsys, no_plots):
    path = tmp_path / "quick.toml"
    path.write_text(EXACT, encoding="utf-8")
    assert _status(["sweep", str(path), "--out", str(tmp_path / "one")]) == 0
    for i in (2, 1, 3):
        assert _status(["sweep", str(path), "--out", str(tmp_path / "runs"), "--shard", f"{i}/3"]) == 0
    assert f"after all shards: sdlab merge {tmp_path}/runs/quick-*-of-3" in capsys.readouterr().out.replace("\n", "")
    paths = [str(path) for path in shards(tmp_path, 3)]
    assert _status(["merge", *paths, "--out", str(tmp_path / "merged")]) == 0
    assert "9 of 9 cells are in" in capsys.readouterr().out
    one, merged = tmp_path / "one/quick", tmp_path / "merged/quick"
    assert_same_values(one, merged)
    assert (merged / "plan.json").read_text() == (one / "plan.json").read_text()
    assert (merged / "table.csv").is_file()
    assert _status(["sweep", str(path), "--out", str(tmp_path / "merged")]) == 0
    assert "all 9 cells were done already" in capsys.readouterr().out


def test_a_part_of_the_shards_is_merged_and_the_rest_later(run, tmp_path):
    for i in (1, 2):
        run(shard=f"{i}/2")
    first, second = shards(tmp_path, 2)
    part = merge([first], tmp_path / "merged")
    assert (part.status, part.total, part.done, part.failed) == (1, 8, 3, 0)
    assert merge([second, first], tmp_path / "merged").done == 8
    assert merge([first, second], tmp_path / "merged") == merge([first], tmp_path / "merged")  # nothing left to do


def test_a_cell_with_values_replaces_one_that_failed_and_never_the_other_way(run, tmp_path):
    bad = "ddim · trailing · cfg scale=3 · 5 steps"
    assert sorted(run(FakeBench(fail_on(bad, "NaN")), shard=f"{i}/2")[0] for i in (1, 2)) == [0, 1]
    assert merge(shards(tmp_path, 2), tmp_path / "merged").failed == 1
    failed = (tmp_path / "runs").rename(tmp_path / "failed")
    for i in (1, 2):
        run(shard=f"{i}/2")
    complete = merge(shards(tmp_path, 2), tmp_path / "merged")
    assert (complete.done, complete.failed, complete.status) == (8, 0, 0)
    assert merge(sorted(failed.iterdir()), tmp_path / "merged").done == 8


def test_a_shard_is_continued_by_the_same_command(run, tmp_path):
    _, _, first = run(shard="1/2")
    status, out, again = run(shard="1/2")
    assert (status, len(first), again) == (0, 3, [])
    assert "all 3 cells were done already" in out


def test_a_dry_run_of_a_shard_lists_its_cells(run, tmp_path):
    status, out, _ = run(shard="2/2", dry_run=True)
    assert status == 0
    assert "quick: 5 cells of 8" in out
    assert "5 of 5 cells to run" in out


def test_runs_of_different_plans_are_not_merged(run, tmp_path):
    run(shard="1/2")
    run(toml=TOML.replace("[5, 10]", "[5, 7]"), shard="2/2")
    first, second = shards(tmp_path, 2)
    with pytest.raises(UsageError) as error:
        merge([first, second], tmp_path / "merged")
    assert str(error.value) == (f"{second} does not belong to {first}: they differ in cells; merge shards of one sweep")
    assert not (tmp_path / "merged").exists()
    merge([first], tmp_path / "merged")
    with pytest.raises(UsageError, match="merged/quick does not belong to"):
        merge([second], tmp_path / "merged")


def test_a_directory_without_results_is_reported_before_anything_is_written(run, tmp_path):
    run(shard="1/2")
    with pytest.raises(UsageError, match=r"nowhere has no results: results\.sqlite is missing"):
        merge([*shards(tmp_path, 2)[:1], tmp_path / "nowhere"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "..", ".hidden", "", "a\0b"])
def test_the_plan_of_a_stranger_chooses_no_place(run, tmp_path, name):
    run(shard="1/1")
    [shard] = shards(tmp_path, 1)
    with sqlite3.connect(shard / "results.sqlite") as db:
        plan = json.loads(db.execute("SELECT value FROM notes WHERE name = 'plan.json'").fetchone()[0])
        db.execute("UPDATE notes SET value = ? WHERE name = 'plan.json'", (json.dumps({**plan, "name": name}),))
    with pytest.raises(UsageError, match="cannot be the name of a run directory"):
        merge([shard], tmp_path / "a/merged")
    assert not (tmp_path / "a").exists()


def test_a_source_of_an_earlier_format_is_merged_and_not_changed(run, tmp_path):
    run(shard="1/2")
    run(shard="2/2")
    sources = [directory / "results.sqlite" for directory in shards(tmp_path, 2)]
    for path in sources:
        made_older(path, 1)
    before = [path.read_bytes() for path in sources]
    assert merge(shards(tmp_path, 2), tmp_path / "merged").done == 8
    assert [path.read_bytes() for path in sources] == before
    with Store(tmp_path / "merged" / "quick" / "results.sqlite") as merged:
        assert all(row.per_image and not row.replicates for row in merged.rows())


def test_a_damaged_row_is_noted_and_the_rest_is_merged(run, tmp_path):
    run(shard="1/1")
    [shard] = shards(tmp_path, 1)
    with sqlite3.connect(shard / "results.sqlite") as db:
        db.execute("UPDATE cells SET metrics = '[' WHERE rowid = 3")
    merged = merge([shard], tmp_path / "merged")
    assert (merged.done, merged.status, len(merged.notes)) == (7, 1, 1)


@pytest.mark.parametrize("column", ["thumbnails", "metrics"])
def test_a_row_with_a_value_that_is_too_large_is_a_damaged_row(run, tmp_path, monkeypatch, column):
    run(shard="1/1")
    [shard] = shards(tmp_path, 1)
    monkeypatch.setattr("sdlab.sweep.store._LARGEST", 2**20)
    with sqlite3.connect(shard / "results.sqlite") as db:
        db.execute(f"UPDATE cells SET {column} = zeroblob({2**21}) WHERE rowid = 3")
        [[key]] = db.execute("SELECT key FROM cells WHERE rowid = 3")
    with Store(shard / "results.sqlite") as store, pytest.raises(Damaged, match=r"^string or blob too big$"):
        store.row(key), store.thumbnails(key)
    merged = merge([shard], tmp_path / "merged")
    assert (merged.done, merged.status, len(merged.notes)) == (7, 1, 1)
    assert merged.notes[0].endswith("results.sqlite cannot be read: string or blob too big")


def test_a_merge_that_was_ended_at_its_start_can_be_repeated(run, tmp_path):
    run(shard="1/1")
    (tmp_path / "merged" / "quick").mkdir(parents=True)
    Store(tmp_path / "merged" / "quick" / "results.sqlite").close()
    assert merge(shards(tmp_path, 1), tmp_path / "merged").status == 0


@pytest.mark.parametrize(
    "text", ["", "1", "0/2", "3/2", "1/2/3", "-1/2", "a/b", "1/99999999999999999999", "²/4", "1/20000"]
)
def test_a_shard_that_is_none_is_a_usage_mistake(run, text, capsys):
    status, _, ran = run(shard=text)
    assert (status, ran) == (2, [])
    assert capsys.readouterr().err.startswith("error: --shard must be like 2/8, the second of eight shards, got ")
