"""Whatever happens to a sweep, finished cells are kept, and the same command runs the rest and nothing else."""

import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from fake_bench import TOML, FakeBench, fail_on, no_bench, result
from older_store import made_older
from rich.console import Console

from sdlab.commands.sweep import sweep
from sdlab.sweep import run as run_module
from sdlab.sweep.cell import Cell, Choice
from sdlab.sweep.plan import load_plan
from sdlab.sweep.results import CellResult
from sdlab.sweep.store import _VERSION, Store
from sdlab.system.errors import RunError

CELL = Cell(sampler=Choice(name="ddim"), grid=Choice(name="trailing"), guidance=Choice(name="none"), steps=5)
PROMPTS = ["a red circle", "a blue star", "a green moon"]
fork = multiprocessing.get_context("fork")
pytestmark = pytest.mark.usefixtures("no_files")


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "quick" / "results.sqlite"


def statuses(path: Path) -> list[str]:
    with sqlite3.connect(path) as db:
        return [status for (status,) in db.execute("SELECT status FROM cells ORDER BY rowid")]


def at_cell(index: int, act: Callable[[], object]) -> FakeBench:
    """A bench that does something in the middle of a cell."""
    count = iter(range(1000))
    return FakeBench(lambda cell: act() if next(count) == index else None)


def test_a_row_comes_back_as_it_was_written(tmp_path):
    written = result(CELL)
    with Store(tmp_path / "s.sqlite") as store:
        store.add("key", CELL, written, PROMPTS, {"torch": "2", "first_seed": 0})
        [row] = store.rows()
        prompts, pictures = store.thumbnails("key")
    assert (row.key, row.cell, row.ok, row.provenance) == ("key", CELL, True, {"torch": "2", "first_seed": 0})
    assert (row.metrics, row.stderr) == (written.metrics, written.stderr)
    assert (row.network_passes, row.seconds_per_image, row.ms_per_pass, row.network_share) == (5, 0.1, 20, 0.9)
    np.testing.assert_array_equal(row.per_image["clip_score"], written.per_image["clip_score"])
    np.testing.assert_array_equal(pictures, written.thumbnails)
    assert prompts == PROMPTS


def test_pictures_and_prompts_that_do_not_match_are_refused(tmp_path):
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(ValueError, match="2 prompts for 3 thumbnails"):
        store.add("key", CELL, result(CELL), PROMPTS[:2], {})


def test_a_sweep_writes_one_row_per_cell_with_its_origin(run, store_path):
    status, out, ran = run()
    assert (status, len(ran)) == (0, 8)
    assert "8 cells run" in out
    with Store(store_path) as store:
        rows = store.rows()
    assert all(row.ok for row in rows)
    assert {"torch", "sdlab", "device", "device_name", "dtype", "threads", "git_commit", "first_seed"} <= set(
        rows[0].provenance
    )
    plan = json.loads(store_path.with_name("plan.json").read_text(encoding="utf-8"))
    assert (plan["prompts"], plan["seed"], len(plan["cells"])) == (PROMPTS, 0, 8)


def test_a_complete_sweep_repeated_comes_from_the_store(run):
    _, first, _ = run()
    status, out, _ = run(open_bench=no_bench)
    assert status == 0
    assert "all 8 cells were done already" in out
    table = first[first.index("sampler") : first.index("8 cells run")]
    assert table in out


def test_a_changed_plan_runs_only_the_new_cells(run):
    run()
    status, out, ran = run(toml=TOML.replace("[5, 10]", "[5, 7, 10]"))
    assert status == 0
    assert len(ran) == 4
    assert all(label.endswith(" 7 steps") for label in ran)
    assert "4 cells run, 8 were done already" in out


def test_other_seeds_run_everything_anew(run):
    run()
    assert len(run(toml=TOML.replace("images = 16", "images = 16\nseed = 9"))[2]) == 8


def test_a_failed_cell_is_marked_the_rest_runs_and_the_next_time_it_is_tried_again(run, store_path):
    bad = "ddim · trailing · cfg scale=3 · 5 steps"
    status, out, ran = run(FakeBench(fail_on(bad, "NaN in the latents at step 2")))
    assert (status, len(ran)) == (1, 7)
    assert f"failed: {bad}: NaN in the latents at step 2" in out
    assert statuses(store_path).count("failed") == 1
    status, _, ran = run()
    assert (status, ran) == (0, [bad])
    assert statuses(store_path) == ["ok"] * 8


def test_a_metric_that_is_nan_fails_its_cell(run):
    class Broken(FakeBench):
        def run(self, cell: Cell, on_progress: Callable[[float], None], images: range) -> CellResult:
            found = super().run(cell, on_progress, images)
            if cell.steps == 5:
                found.metrics["fid"] = float("nan")
            return found

    status, out, _ = run(Broken())
    assert status == 1
    assert "failed: heun · trailing · none · 5 steps: FID (lab) is nan" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_finished_cells(run, store_path, number):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    status, out, ran = run(at_cell(3, lambda: signal.raise_signal(number)))
    assert (status, len(ran)) == (130, 3)
    assert "interrupted: 3 of 8 cells are kept" in out
    assert statuses(store_path) == ["ok"] * 3
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert len(run()[2]) == 5


def test_an_interrupt_that_a_library_swallows_is_not_lost(run):
    def swallow() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    status, _, ran = run(at_cell(3, swallow))
    assert (status, len(ran)) == (130, 3)


def test_an_interrupt_while_a_row_is_written_waits_for_it(run, store_path, monkeypatch):
    add = Store.add

    def interrupted_add(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        add(*arguments)

    monkeypatch.setattr(Store, "add", interrupted_add)
    status, out, _ = run()
    assert status == 130
    assert "interrupted: 1 of 8 cells are kept" in out
    assert statuses(store_path) == ["ok"]


class Child(NamedTuple):
    process: ForkProcess
    out: Path
    printed: Path


@pytest.fixture
def child(file, tmp_path):
    """Another process, in the middle of its third cell."""
    started, never = fork.Event(), fork.Event()
    bench = at_cell(2, lambda: started.set() or never.wait())
    child = in_child(file, tmp_path, bench)
    assert started.wait(60)
    yield child
    child.process.kill()
    child.process.join()


def in_child(file: Path, tmp_path: Path, bench: FakeBench, before: Callable[[], object] = lambda: None) -> Child:
    """Start the sweep of a file in another process; what it prints goes to a file."""
    out, printed = tmp_path / "runs", tmp_path / "printed"

    def work() -> None:
        before()
        sys.stderr = printed.open("a", buffering=1, encoding="utf-8")
        console = Console(file=sys.stderr, width=200)
        sys.exit(sweep(file, lambda plan: "weights", lambda plan: bench, out=out, console=console))

    process = fork.Process(target=work)
    process.start()
    return Child(process, out, printed)


def test_after_kill_9_in_a_cell_the_same_command_runs_the_rest(child, run):
    child.process.kill()
    child.process.join()
    assert child.process.exitcode == -signal.SIGKILL
    status, out, ran = run()
    assert (status, len(ran)) == (0, 6)
    assert "6 cells run, 2 were done already" in out


def test_a_second_process_reports_the_first_and_ctrl_c_ends_the_first_with_130(child, run, capsys):
    assert run()[0] == 1
    place = child.out / "quick"
    assert capsys.readouterr().err == f"error: run directory {place} is in use by process {child.process.pid}\n"
    os.kill(child.process.pid, signal.SIGINT)
    child.process.join(30)
    assert child.process.exitcode == 130
    assert child.printed.read_text(encoding="utf-8").splitlines()[-1].startswith("interrupted: 2 of 8 cells are kept")


def test_kill_9_at_any_moment_leaves_a_whole_store(file, tmp_path):
    """Killed again and again while it writes row after row, a sweep still ends with every row whole."""
    file.write_text(TOML.replace("[5, 10]", str(list(range(1, 16)))), encoding="utf-8")
    path = tmp_path / "runs" / "quick" / "results.sqlite"

    seen = 0
    for delay in (0.02, 0.05, 0.03, 0.08):
        process = in_child(file, tmp_path, FakeBench()).process
        before, deadline = seen, time.monotonic() + 30
        while seen <= before and process.is_alive() and time.monotonic() < deadline:
            time.sleep(delay)
            seen = len(statuses(path)) if path.exists() and path.stat().st_size else 0
        process.kill()
        process.join()
        with Store(path) as store:
            rows = store.rows()
            assert len(rows) >= before
            assert all(len(row.per_image["clip_score"]) == 16 for row in rows)
            assert all(store.thumbnails(row.key) is not None for row in rows)
    last = in_child(file, tmp_path, FakeBench()).process
    last.join()
    assert last.exitcode == 0
    assert statuses(path) == ["ok"] * 60


def test_a_full_disk_is_one_line_and_loses_nothing(file, tmp_path, run, store_path):
    """A limit on the size of files stands in for the disk: SQLite meets it in the middle of a transaction."""
    limit = (32_768, resource.RLIM_INFINITY)
    child = in_child(file, tmp_path, FakeBench(), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    child.process.join()
    assert child.process.exitcode == 1
    [line] = [line for line in child.printed.read_text(encoding="utf-8").splitlines() if line.startswith("error")]
    assert line.startswith(f"error: cannot write {store_path}: the disk is full or fails")
    kept = len(statuses(store_path))
    assert 0 < kept < 8
    assert len(run()[2]) == 8 - kept


def test_a_sweep_stops_before_a_cell_for_which_there_is_no_room(run, monkeypatch, capsys):
    usage = shutil.disk_usage("/")._replace(free=2**20)
    monkeypatch.setattr(run_module.shutil, "disk_usage", lambda path: usage)
    status, _, ran = run()
    assert (status, ran) == (1, [])
    assert capsys.readouterr().err.startswith("error: no space left on the disk of ")


@pytest.fixture
def whole_store(tmp_path: Path) -> bytes:
    with Store(tmp_path / "whole.sqlite") as store:
        for i in range(20):
            store.add(f"key {i}", CELL, result(CELL), PROMPTS, {})
    return (tmp_path / "whole.sqlite").read_bytes()


def foreign(path: Path) -> bytes:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE somebody (s)")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda whole, path: b"dear diary\n" * 500, "is damaged or is not an SQLite file"),
        (lambda whole, path: whole[: len(whole) // 2], "is damaged or is not an SQLite file"),
        (lambda whole, path: foreign(path), "is a database of another program"),
        (lambda whole, path: whole[:60] + (99).to_bytes(4, "big") + whole[64:], "was written by a newer sdlab"),
    ],
    ids=["text", "truncated", "foreign", "newer"],
)
def test_an_unusable_store_is_reported_in_one_line_and_not_changed(
    run, store_path, whole_store, content, words, capsys
):
    store_path.parent.mkdir(parents=True)
    store_path.write_bytes(data := content(whole_store, store_path))
    status, _, ran = run()
    [line] = capsys.readouterr().err.splitlines()
    assert (status, ran) == (1, [])
    assert line.startswith(f"error: {store_path} {words}")
    assert store_path.read_bytes() == data


@pytest.mark.parametrize("version", range(1, _VERSION))
def test_a_store_of_an_earlier_format_is_brought_up_to_date_with_all_its_rows(tmp_path, whole_store, version):
    path = tmp_path / "whole.sqlite"
    made_older(path, version)
    with Store(path) as store:
        rows = store.rows()
        assert len(rows) == 20
        assert all(bool(row.replicates) is (version > 1) and row.per_image for row in rows)
        assert all(bool(row.times.whole) is (version > 2) and row.seconds_per_image == 0.1 for row in rows)
        store.add("key 20", CELL, result(CELL), PROMPTS, {})
        assert store.rows(["key 20"])[0].replicates["fid"].shape == (2, 16)


@pytest.mark.parametrize("version", range(1, _VERSION + 1))
def test_a_store_that_is_only_read_is_not_changed_whatever_its_format(tmp_path, whole_store, version):
    path = tmp_path / "whole.sqlite"
    made_older(path, version)
    before = path.read_bytes()
    with Store(path, only_read=True) as store:
        rows = store.rows()
        assert [row.key for row in rows] == [f"key {i}" for i in range(20)]
        assert all(bool(row.replicates) is (version > 1) and row.per_image for row in rows)
        with pytest.raises(RunError):
            store.set_note("a", "note")
    assert path.read_bytes() == before


def test_a_store_without_its_columns_is_reported_and_not_changed(tmp_path, whole_store):
    path = tmp_path / "whole.sqlite"
    made_older(path, 1)
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE cells DROP COLUMN provenance")
    before = path.read_bytes()
    with pytest.raises(RunError, match="`cells` has no column `provenance`"):
        Store(path)
    assert path.read_bytes() == before


def test_a_run_directory_that_cannot_be_made_is_reported(run, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    assert run(out=tmp_path / "taken")[0] == 1
    assert capsys.readouterr().err.startswith(f"error: cannot make the folder {tmp_path}/taken/quick: ")


def test_usage_mistakes_exit_with_2_and_a_bench_that_cannot_open_with_the_status_of_its_error(run, capsys):
    def missing(plan: object) -> FakeBench:
        raise RunError("unet.safetensors: not a whole file")

    assert run(toml="model = 3")[0] == 2
    assert all(line.startswith("error: ") for line in capsys.readouterr().err.splitlines())
    assert run(open_bench=missing)[0] == 1
    assert capsys.readouterr().err == "error: unet.safetensors: not a whole file\n"


def test_a_dry_run_lists_the_cells_and_their_cost_and_writes_nothing(run, tmp_path):
    status, out, _ = run(dry_run=True, open_bench=no_bench)
    assert status == 0
    assert not (tmp_path / "runs").exists()
    assert "heun · trailing · cfg scale=3 · 10 steps" in out
    passes = 16 * (5 + 10 + 10 + 20 + 9 + 19 + 18 + 38)
    assert f"8 of 8 cells to run, 16 images each: {passes:,} network passes" in out
    assert "assumed for cpu" in out


def test_a_dry_run_uses_the_speed_that_was_measured(run):
    run()
    out = run(toml=TOML.replace("[5, 10]", "[5, 10, 100]"), dry_run=True, open_bench=no_bench)[1]
    assert "4 of 12 cells to run" in out
    assert "at 20 ms per pass and image (the median of 8 cells measured here before)" in out


def test_options_of_the_command_line_replace_those_of_the_file(file):
    assert load_plan(file, {"images": 4, "seed": 7}).images == 4


def test_rows_come_oldest_first_and_those_of_given_keys_in_their_order(store_path: Path):
    store_path.parent.mkdir(parents=True)
    with Store(store_path) as store:
        for key in "bac":
            store.add(key, CELL, result(CELL), PROMPTS, {})
            time.sleep(0.01)
        store.add("b", CELL, result(CELL), PROMPTS, {})  # again: now the newest
        assert [row.key for row in store.rows()] == ["a", "c", "b"]
        assert [row.key for row in store.rows("cxb")] == ["c", "b"]
