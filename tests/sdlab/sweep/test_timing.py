"""Cells are timed in turn, with a warm-up, and the median, the quartiles and the parts of the time are kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_bench import TOML, FakeBench, no_bench

from sdlab.report.stored_run import opened_run
from sdlab.report.table import make_table
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.cell import Cell
from sdlab.sweep.plan import load_plan
from sdlab.sweep.results import CellFailed
from sdlab.sweep.store import Damaged, Row, Store
from sdlab.sweep.times import Times, of_batches, repeated
from sdlab.system.memory import PeakMemory
from sdlab.system.other_work import OtherWork

ROUNDS = "timing_rounds = 3\n" + TOML.replace('["ddim", "heun"]', '"ddim"')


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdlab.report.plots.plot_metric", lambda path, *_: path.touch())


class DriftingBench(FakeBench):
    """A machine that takes longer for each repetition, whichever cell it is of."""

    def time(self, cell: Cell, on_progress: Callable[[float], None]) -> Times:
        found = super().time(cell, on_progress)
        return replace(found, network=(float(len(self.timed)),))


def rows(tmp_path: Path) -> list[Row]:
    with Store(tmp_path / "runs" / "quick" / "results.sqlite") as store:
        return store.rows()


def times(*seconds: float) -> Times:
    zeros = (0.0,) * len(seconds)
    return Times(seconds, zeros, zeros, (10.0,) * len(seconds))


def test_cells_are_timed_in_turn_and_every_other_round_backwards(run, tmp_path):
    bench = FakeBench()
    assert run(bench, ROUNDS)[0] == 0
    labels = bench.ran
    assert bench.timed == [*labels[::-1], *labels, *labels[::-1], *labels]
    assert all(len(row.times.whole) == 3 and row.times.rounds for row in rows(tmp_path))


def test_a_steady_drift_is_the_same_for_all_cells(run, tmp_path):
    run(DriftingBench(), ROUNDS.replace("= 3", "= 2", 1))
    assert len({row.times.seconds for row in rows(tmp_path)}) == 1
    assert rows(tmp_path)[0].seconds_per_image > 4  # the round to warm up is left out


def test_a_timed_sweep_is_not_timed_again_until_it_has_other_cells(run, tmp_path):
    run(FakeBench(), ROUNDS)
    assert run(toml=ROUNDS, open_bench=no_bench)[0] == 0
    bench = FakeBench()
    run(bench, ROUNDS.replace("[5, 10]", "[5, 10, 20]"))
    assert len(bench.ran) == 2
    assert len(set(bench.timed)) == 6
    assert len({row.times.rounds for row in rows(tmp_path)}) == 1


def test_a_dry_run_counts_the_passes_of_the_rounds(run):
    out = run(toml=ROUNDS, dry_run=True, open_bench=no_bench)[1]
    passes = 5 + 10 + 10 + 20
    assert f"{16 * passes} network passes, and {4 * 16 * passes:,} to time all cells" in " ".join(out.split())


def test_an_interrupt_leaves_the_times_of_before(run, tmp_path):
    class Interrupted(FakeBench):
        def time(self, cell: Cell, on_progress: Callable[[float], None]) -> Times:
            if len(self.timed) == 9:
                raise KeyboardInterrupt
            return super().time(cell, on_progress)

    assert run(Interrupted(), ROUNDS)[0] == 130
    assert all(row.ok and not row.times.rounds and row.times.metrics for row in rows(tmp_path))


def test_a_cell_that_fails_in_a_round_keeps_its_times_and_the_others_are_timed(run, tmp_path):
    class Failing(FakeBench):
        def time(self, cell: Cell, on_progress: Callable[[float], None]) -> Times:
            if cell.steps == 10 and len(self.timed) > 5:
                raise CellFailed("no memory")
            return super().time(cell, on_progress)

    assert run(Failing(), ROUNDS)[0] == 0
    assert [bool(row.times.rounds) for row in rows(tmp_path)] == [row.cell.steps == 5 for row in rows(tmp_path)]


def test_one_disturbed_round_of_three_does_not_mark_the_times(run, tmp_path, monkeypatch):
    two, slow = TOML.replace('["ddim", "heun"]', '"ddim"').replace("[5, 10]", "5"), 0.6
    shares = iter([1.0, *[0.0] * 3, *[slow] * 3, *[None, 0.02, 0.03]])  # of two cells, then of the round
    run(FakeBench(), two)
    monkeypatch.setattr(OtherWork, "share", lambda _: next(shares))
    run(FakeBench(), "timing_rounds = 3\n" + two)
    assert sorted(row.provenance["other_work"] for row in rows(tmp_path)) == [0.02, 0.03]


def test_the_table_has_the_range_the_parts_and_the_way_of_measuring(run, tmp_path):
    run(FakeBench(), ROUNDS)
    with opened_run(tmp_path / "runs" / "quick") as stored:
        table = make_table(stored.plan, stored.rows)
    columns = {column.name: column for column in table.columns}
    assert [column.heading for column in table.for_people][-4:] == ["s/image", "IQR", "ms/pass", "net %"]
    for name in ("network", "sampler", "decode", "metrics"):
        assert columns[f"{name}_seconds"].values == tuple(row.times.of_parts[name] for row in stored.rows)
    assert columns["seconds_q1"].values == columns["seconds_q3"].values  # all rounds are alike here
    assert any("of 3 rounds in which all cells were timed in turn" in line for line in table.legend())
    [line] = [line for line in table.caption if line.startswith("Shares of the time")]
    assert "the network 90%, the sampler 0%, decoding 0%, the metrics 10%." in line


def test_median_and_quartiles_are_those_of_the_whole_time_of_each_repetition():
    parts = np.random.default_rng(0).gamma(2.0, size=(3, 9))
    found = Times(*(tuple(map(float, part)) for part in parts), passes=(5.0,) * 9)
    assert found.seconds == pytest.approx(np.median(parts.sum(0)))
    assert found.quartiles == pytest.approx(tuple(np.percentile(parts.sum(0), (25, 75))))
    assert found.ms_per_pass == pytest.approx(1000 * np.median(parts[0]) / 5)
    assert times(1.0, 2.0).quartiles is None


def test_the_first_batch_and_small_batches_are_left_out():
    batches = [(32, times(9.0)), (32, times(1.0)), (32, times(2.0)), (8, times(5.0))]
    assert of_batches(batches, 0.5) == replace(times(1.0, 2.0), metrics=0.5)
    assert of_batches(batches[:1], 0.5) == replace(times(9.0), metrics=0.5)
    assert of_batches([(32, times(3.0)), (8, times(5.0))], 0.5).seconds == 3.0
    assert repeated([times(1.0), times(2.0)]) == times(1.0, 2.0)


def test_damaged_times_are_reported(run, tmp_path):
    run(FakeBench(), ROUNDS)
    path = tmp_path / "runs" / "quick" / "results.sqlite"
    key = rows(tmp_path)[0].key
    for text in ("{", '{"network": [-1], "sampler": [0], "decode": [0], "passes": [1]}', '{"network": [1]}'):
        with sqlite3.connect(path) as db:
            db.execute("UPDATE cells SET times = ? WHERE key = ?", (text, key))
        with Store(path) as store, pytest.raises(Damaged):
            store.row(key)


def test_each_part_is_timed_on_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        """
import time
import samplers
from sdlab.backends.custom_model import CustomModel

def slow(seconds, result):
    time.sleep(seconds)
    return result

def model():
    decode = lambda x: slow(0.3, x.clamp(-1, 1).repeat(1, 3, 4, 4))
    flow = lambda x, sigma, sigma_next: 0 * x
    denoise = lambda x, sigma: slow(0.1, 0 * x)
    return CustomModel(denoise, samplers.discrete_levels(), (1, 1, 1), flow=flow, decode=decode)
""",
        encoding="utf-8",
    )
    Path("s.toml").write_text(
        'model = "mine.py:model"\nimages = 2\nmetrics = ["saturation"]\n[cells]\nsampler = "euler"\nsteps = 2\n',
        encoding="utf-8",
    )
    bench = ModelBench(load_plan("s.toml"))
    shares: list[float] = []
    [cell] = bench.plan.cells
    result = bench.run(cell, shares.append, range(2))
    for found in (result.times, bench.time(cell, shares.append)):
        assert found.passes == (2.0,)
        assert found.network[0] >= 0.1
        assert found.decode[0] >= 0.15
        assert found.sampler[0] < 0.1
    assert result.times.metrics is not None


def test_the_peak_is_that_since_the_start_of_a_cell():
    before = PeakMemory("cpu")
    if not before.size > 0:
        pytest.skip("the system does not tell")
    size = 200 * 2**20
    block = np.ones(size // 8)
    peak = before.size
    assert peak > size
    del block
    assert PeakMemory("cpu").size < peak - size / 2
