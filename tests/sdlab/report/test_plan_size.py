"""How many images a difference needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_bench import TOML
from scipy import stats

from sdlab.commands.plan_size import command
from sdlab.report.plan_size import needed, plan_size
from sdlab.report.stored_run import opened_run
from sdlab.sweep.store import Store
from sdlab.system.errors import UsageError


@pytest.mark.parametrize(("deviation", "wanted", "power"), [(1.0, 0.5, 0.8), (2.0, 0.4, 0.9), (0.3, 0.3, 0.5)])
def test_that_many_units_find_the_difference_with_the_stated_probability(deviation: float, wanted: float, power: float):
    units, repeats = needed(deviation, wanted, power), 4000
    draws = np.random.default_rng(0).normal(wanted, deviation, (repeats, units))
    found = float((stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean())
    fewer = float(1 - stats.nct.cdf(stats.t.ppf(0.975, units - 2), units - 2, wanted * (units - 1) ** 0.5 / deviation))
    assert found >= power - 4 * (power * (1 - power) / repeats) ** 0.5
    assert fewer < power


def test_the_textbook_number_is_met():
    """(1.96 + 0.84)² / 0.2² = 196.2, and about two more for Student's t."""
    assert needed(1.0, 0.2, 0.8) == 199


def test_half_the_difference_needs_four_times_the_units_and_all_cells_at_once_need_more():
    assert needed(1.0, 0.01, 0.8) / needed(1.0, 0.02, 0.8) == pytest.approx(4, rel=0.01)
    assert needed(1.0, 0.02, 0.8, least=3.0) == pytest.approx(((3.0 + 0.8416) / 0.02) ** 2, rel=0.01)
    assert needed(0.0, 0.1, 0.8) == 2


@pytest.fixture
def directory(finished: Callable[..., Path]) -> Path:
    prompts = ", ".join(f'"prompt {i}"' for i in range(16))
    return finished(TOML.replace('"a red circle", "a blue star", "a green moon"', prompts))


def test_each_cell_is_paired_with_the_best(directory: Path):
    with opened_run(directory) as run:
        table = plan_size(run, 0.05, "clip_score")
        best = max(run.rows, key=lambda row: row.metrics["clip_score"])
        others = [row for row in run.rows if row is not best]
    columns = {column.name: column.values for column in table.columns}
    deviations = [(row.per_image["clip_score"] - best.per_image["clip_score"]).std(ddof=1) for row in others]
    np.testing.assert_allclose(columns["deviation"], deviations)
    assert columns["images"] == tuple(needed(one, 0.05, 0.8) for one in deviations)
    assert all(more > one for more, one in zip(columns["images_at_once"], columns["images"], strict=True))
    own = best.per_image["clip_score"].std(ddof=1) * 2**0.5
    assert max(columns["images"]) < needed(own, 0.05, 0.8) / 10  # unpaired it would take many more


def test_a_metric_of_the_whole_set_uses_its_jackknife(directory: Path):
    with opened_run(directory) as run:
        table = plan_size(run, 1.0, "fid")
    assert all("1/√n" in line for line in table.caption[-1:])
    assert len(table.columns[0].values) == 7


def test_with_repeated_prompts_the_units_are_prompts(finished: Callable[..., Path]):
    """Eight prompts of two images each: a number of prompts is twice as many images."""
    prompts = ", ".join(f'"prompt {i}"' for i in range(8))
    with opened_run(finished(TOML.replace('"a red circle", "a blue star", "a green moon"', prompts))) as opened:
        columns = {column.name: column.values for column in plan_size(opened, 0.05, "clip_score").columns}
    assert columns["images"] == tuple(2 * needed(float(one), 0.05, 0.8) for one in columns["deviation"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((0.0, "fid"), "--difference should be above 0, got 0"),
        ((float("nan"), "fid"), "--difference should be above 0, got nan"),
        ((1.0, "fid", 1.0), "--power should be above 0.05 and below 1, got 1"),
        ((1.0, None), "--metric: name one of fid, clip_score"),
        ((1.0, "fdi"), "--metric: unknown metric 'fdi' (did you mean 'fid'?); known: clip_score, fid"),
    ],
)
def test_a_mistake_is_one_line(options: tuple[float, str], message: str, directory: Path):
    with opened_run(directory) as run, pytest.raises(UsageError) as caught:
        plan_size(run, *options)
    assert caught.value.lines == [message]


def test_values_without_variance_are_reported(directory: Path):
    with Store(directory / "results.sqlite") as store:
        store._db.execute("UPDATE cells SET replicates = NULL")
    with (
        opened_run(directory) as run,
        pytest.raises(UsageError, match=r"^FID \(lab\) has no values per image in quick"),
    ):
        plan_size(run, 1.0, "fid")


def test_the_command_prints_a_table(directory: Path, capsys: pytest.CaptureFixture[str]):
    command(directory, 0.05, "clip_score", 0.9, "md")
    out = capsys.readouterr().out
    assert "| sampler | guidance | steps | deviation | images, this pair | images, all cells at once |" in out
    assert "with probability 90%" in out
