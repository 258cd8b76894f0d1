"""A sweep that stops early adds images to cells until their place is known, and looking often causes no more errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_bench import TOML, FakeBench, no_bench, random, result
from scipy import stats

import sdlab.report.statistics
from sdlab.metrics import METRICS
from sdlab.report.looks import standings_of, unsettled
from sdlab.report.simultaneous import critical_value
from sdlab.report.statistics import confidence, difference
from sdlab.report.stored_run import opened_run
from sdlab.report.view import View
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.cell import Cell, Choice
from sdlab.sweep.document import Until
from sdlab.sweep.plan import load_plan
from sdlab.sweep.provenance import OTHER_WORK
from sdlab.sweep.results import CellFailed, CellResult
from sdlab.sweep.store import Row, Store
from sdlab.system.errors import UsageError
from sdlab.system.other_work import OtherWork

pytestmark = pytest.mark.usefixtures("only_tables")
TABLE = '{ until = 0.05, metric = "clip_score", least = 16, most = 128 }'
GROWING = (
    TOML.replace("images = 16", f"images = {TABLE}").replace('"fid", ', "").replace('["ddim", "heun"]', "SAMPLERS")
)
GROWING = GROWING.replace('["none", { name = "cfg", scale = 3.0 }]', '"none"').replace("[5, 10]", "5")
GROWING = GROWING.replace("SAMPLERS", '["ddim", "heun", "euler"]')
CELL = Cell(sampler=Choice(name="ddim"), grid=Choice(name="trailing"), guidance=Choice(name="none"), steps=5)
EQUAL_CELLS = [("ddim", 16), ("heun", 16), ("euler", 16)] + [(s, n) for n in (32, 64, 128) for s in ("ddim", "heun")]


class GrowingBench(FakeBench):
    """Scores of ddim and heun are equal on average, and that of euler is lower. `calls` are samplers and images."""

    def __init__(self, at: int | None = None, error: BaseException | None = None) -> None:
        super().__init__()
        self.at, self.error, self.calls = at, error, list[tuple[str, int]]()

    def run(self, cell: Cell, on_progress: Callable[[float], None], images: range) -> CellResult:
        name, shown = cell.sampler.name, slice(images.start, images.stop)
        if len(self.calls) == self.at and self.error is not None:
            error, self.error = self.error, None
            raise error
        self.calls.append((name, images.stop))
        values = random("all").normal(size=128) + random(f"{name}!").normal(size=128) - 3.0 * (name == "euler")
        found = result(cell)
        score = values[shown]
        return replace(
            found,
            metrics={"clip_score": float(score.mean())},
            stderr={"clip_score": float(stats.sem(score))},
            per_image={"clip_score": score},
            replicates={},
            network_passes=5.0 + (images.start > 0),
            thumbnails=found.thumbnails[: 0 if images.start else None],
        )


def rows(tmp_path: Path) -> dict[str, Row]:
    with Store(tmp_path / "runs" / "quick" / "results.sqlite") as store:
        return {row.cell.sampler.name: row for row in store.rows()}


def test_different_cells_stop_early_and_equal_ones_at_the_most(run: Callable[..., Any], tmp_path: Path):
    bench = GrowingBench()
    status, out, _ = run(bench, toml=GROWING)
    found = rows(tmp_path)
    assert (status, bench.calls) == (0, EQUAL_CELLS)
    assert {name: row.images for name, row in found.items()} == {"ddim": 128, "heun": 128, "euler": 16}
    values = random("all").normal(size=128) + random("ddim!").normal(size=128)
    np.testing.assert_array_equal(found["ddim"].per_image["clip_score"], values)
    assert found["ddim"].metrics["clip_score"] == pytest.approx(values.mean(), rel=1e-12)
    assert found["ddim"].stderr["clip_score"] == pytest.approx(stats.sem(values), rel=1e-12)
    assert found["ddim"].network_passes == pytest.approx((16 * 5 + 112 * 6) / 128)
    assert "16 to 128 images per cell" in " ".join(out.split())
    assert "behind in CLIP score or tied to within ±0.05, judged at 16, 32, 64, 128 images" in " ".join(out.split())
    assert "3 cells run" in out
    text = (tmp_path / "runs" / "quick" / "table.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[text[0].split(",").index("images")] for line in text[1:]] == ["128", "128", "16"]


def test_factors_are_analysed_on_the_images_that_all_cells_have(run: Callable[..., Any], tmp_path: Path):
    run(GrowingBench(), toml=GROWING)
    with opened_run(tmp_path / "runs" / "quick") as opened:
        columns = {column.name: column.values for column in View(factors=True).of(opened).columns}
        means = np.array([row.per_image["clip_score"][:16].mean() for row in opened.rows])
        deviations = np.stack([row.per_image["clip_score"][:16] for row in opened.rows]) - means[:, None]
    noise = np.square(deviations - deviations.mean(axis=0)).sum() / (16 * 15) / np.square(means - means.mean()).sum()
    assert columns["effect"] == ("sampler", "noise")
    assert columns["clip_score"] == pytest.approx((1 - noise, noise))


def test_cells_that_are_tied_to_within_the_half_width_stop(run: Callable[..., Any], tmp_path: Path):
    run(toml=GROWING.replace("0.05", "2.0"), bench=GrowingBench())
    assert {row.images for row in rows(tmp_path).values()} == {16}


@pytest.mark.parametrize("at", range(len(EQUAL_CELLS)))
def test_a_sweep_that_was_killed_goes_on_to_the_same_table(run: Callable[..., Any], tmp_path: Path, at: int):
    run(GrowingBench(), toml=GROWING, out=tmp_path / "whole")
    bench = GrowingBench(at, KeyboardInterrupt())
    assert run(bench, toml=GROWING)[0] == 130
    assert bench.calls == EQUAL_CELLS[:at]
    assert run(bench, toml=GROWING)[0] == 0
    assert bench.calls == EQUAL_CELLS  # nothing was run twice
    tables = [(tmp_path / where / "quick" / "table.csv").read_bytes() for where in ("whole", "runs")]
    assert tables[0] == tables[1]
    assert run(toml=GROWING, open_bench=no_bench)[0] == 0


def test_a_cell_that_fails_keeps_its_images_and_is_tried_again(run: Callable[..., Any], tmp_path: Path):
    bench = GrowingBench(3, CellFailed("out of luck"))  # ddim, in the second round
    status, out, _ = run(bench, toml=GROWING)
    assert status == 1
    assert bench.calls == [*EQUAL_CELLS[:3], ("heun", 32)]  # then heun is the only one left, and needs no more
    assert rows(tmp_path)["ddim"].images == 16
    assert "1 of 3 cells failed, 2 are done" in out
    bench.at, bench.error = 4, CellFailed("out of luck again")
    assert "1 of 3 cells failed, 2 are done" in run(bench, toml=GROWING)[1]
    assert run(bench, toml=GROWING)[0] == 0
    assert bench.calls == [*EQUAL_CELLS[:3], ("heun", 32), ("ddim", 32), *EQUAL_CELLS[5:]]
    assert rows(tmp_path)["ddim"].images == 128


def test_times_are_marked_if_any_round_was_disturbed(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shares = iter([0.9, 0.0, 0.0, *[None] * 6])
    monkeypatch.setattr(OtherWork, "share", lambda self: next(shares))
    run(GrowingBench(), toml=GROWING)
    assert {name: row.provenance[OTHER_WORK] for name, row in rows(tmp_path).items()} == {
        "ddim": 0.9, "heun": 0.0, "euler": 0.0,
    }  # fmt: skip


def test_a_dry_run_prints_the_least_and_the_most(run: Callable[..., Any]):
    _, out, _ = run(toml=GROWING, open_bench=no_bench, dry_run=True)
    assert "at least: 3 of 3 cells to run, 16 images each: 304 network passes" in out  # 5 + 9 + 5 passes per image
    assert "at most: 3 of 3 cells to run, 128 images each: 2,432 network passes" in out
    run(GrowingBench(), toml=GROWING)
    _, out, _ = run(toml=GROWING, open_bench=no_bench, dry_run=True)
    assert "at least: 0 of 3 cells to run, 16 images each: 0 network passes" in out
    assert "at most: 1 of 3 cells to run, 128 images each: 560 network passes" in out


def test_shards_are_refused(run: Callable[..., Any], capsys: pytest.CaptureFixture[str]):
    assert run(toml=GROWING, open_bench=no_bench, shard="1/2")[0] == 2
    err = capsys.readouterr().err
    assert "--shard: a sweep with `until` compares all cells after each round; run it on one machine" in err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("until = 0.05", "until = 0", "images.until: should be greater than 0, got 0"),
        ("until = 0.05", "until = nan", "images.until: should be a finite number, got nan"),
        ("until = 0.05, ", "", "images.until: missing; it should be the half width of an interval, like 0.01"),
        ("most = 128", "most = 8", "images.most: should be at least 16, got 8"),
        ("most = 128", "mots = 128", "images.mots: unknown key 'mots' (did you mean 'most'?); known: least, metric"),
        ("least = 16", "least = 256", "images.least: should be at most `most`, 128, got 256"),
        ('"clip_score", least', '"clip_scor", least', "images.metric: unknown metric 'clip_scor' (did you mean"),
        ('"clip_score", least', '"psnr", least', "images.metric: psnr is not measured; add it to `metrics`"),
        ('"clip_score", least', '"fid", least', "images.metric: fid is a property of the whole set, so cells cannot"),
        ('"clip_score", least', '"contrast", least', "images.metric: neither a lower nor a higher contrast is better"),
        ('["clip_score"]', '["clip_score", "fid", "precision"]', "metrics: fid, precision cannot be compared between"),
        ("[prompts]", 'compare = "sampler"\n[prompts]', "compare: does not work with `until`; give `images` a number"),
        (TABLE, '"many"', "images: should be a whole number, got 'many'"),
        (TABLE, "0", "images: should be at least 1, got 0"),
    ],
)
def test_a_mistake_is_one_line(old: str, new: str, message: str, file: Path):
    file.write_text(GROWING.replace(old, new), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_plan(file)
    assert any(line.startswith(f"{file}: {message}") for line in caught.value.lines), caught.value.lines


def test_the_key_depends_on_the_looks_and_not_on_the_half_width(file: Path):
    keys = []
    for new in (TABLE, TABLE.replace("0.05", "0.01"), TABLE.replace("128", "256"), TABLE.replace("16", "32"), "128"):
        file.write_text(GROWING.replace(TABLE, new), encoding="utf-8")
        plan = load_plan(file)
        keys.append(plan.key(plan.cells[0], "weights"))
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


# Statistics


def race(values: np.ndarray, until: float = 1e-9, metric: str = "clip_score", looks: int | None = None) -> list[int]:
    """The cells that stay at each look, judged by values (K, 256)."""
    rule = Until(until=until, metric=metric, least=32, most=256)
    found: Any = SimpleNamespace(until=rule, measures=[METRICS[metric]], units=range(256), looks=range(looks or 4))
    cells = [Row("", CELL, metrics={metric: float(one.mean())}, per_image={metric: one}) for one in values]
    return [len(unsettled(found, cells, images)) for images in rule.looks]


def test_looking_often_causes_no_more_errors(monkeypatch: pytest.MonkeyPatch):
    """Three equal cells of one image noise: in at most one race of twenty a cell is ever called behind another."""
    monkeypatch.setattr(sdlab.report.statistics, "critical_value", partial(critical_value, draws=400))
    rng, races, wrong = np.random.default_rng(0), 80, 0
    for _ in range(races):
        wrong += min(race(rng.normal(size=256) + rng.normal(size=(3, 256)))) < 3
    assert wrong / races < 0.05 + 3 * (0.05 * 0.95 / races) ** 0.5


def test_the_part_of_each_look_holds_the_error_rate_of_all():
    """Ten thousand races of two equal cells, in Student's t, which is the critical value of two cells."""
    draws, looks = np.random.default_rng(1).normal(size=(10_000, 512)), [16 << k for k in range(6)]

    def errors(level: float) -> float:
        wrong = np.zeros(len(draws), bool)
        for n in looks:
            t = draws[:, :n].mean(axis=1) / draws[:, :n].std(axis=1, ddof=1) * n**0.5
            wrong |= np.abs(t) > stats.t.ppf((1 + level) / 2, n - 1)
        return float(wrong.mean())

    assert errors(confidence(len(looks))) < 0.05
    assert errors(confidence(1)) > 0.12  # what looking costs without the correction


def test_a_worse_cell_is_dropped_and_the_best_needs_no_more():
    rng = np.random.default_rng(2)
    images = rng.normal(size=256)
    assert race(np.stack([images, images - 1 + 0.1 * rng.normal(size=256)])) == [0, 0, 0, 0]
    assert race(np.stack([images, images - 1, images + 0.1 * rng.normal(size=256)]))[0] == 2


def test_shares_that_agree_on_few_images_are_not_known_to_be_equal():
    """On n images that all agree, a share may still differ by a few times 1/(n + 1)."""
    ones = np.ones((2, 256))
    assert race(ones, until=0.015, metric="prompt_accuracy") == [2, 2, 2, 0]
    assert race(ones, until=0.015) == [0, 0, 0, 0]  # no share: the pictures are the same


def test_cells_are_compared_on_the_images_that_both_have(file: Path):
    file.write_text(GROWING, encoding="utf-8")
    plan, rng, score = load_plan(file), np.random.default_rng(3), METRICS["clip_score"]
    values = rng.normal(size=128)
    long, short, other = values, values[:32] - 0.1 + 0.01 * rng.normal(size=32), values - 0.001 * rng.random(128)
    found = [Row("", CELL, metrics={"clip_score": v.mean()}, per_image={"clip_score": v}) for v in (long, short, other)]
    assert difference(score, found[1], found[0]).difference == pytest.approx((short - long[:32]).mean())
    ranked = [one for one in standings_of(plan, score, found) if one is not None]
    assert [one.best for one in ranked] == [True, False, False]
    assert (ranked[1].ties, ranked[1].difference) == (False, pytest.approx((short - long[:32]).mean()))
    lucky = replace(found[1], per_image={"clip_score": short + 5}, metrics={"clip_score": short.mean() + 5})
    best = [one.best for one in standings_of(plan, score, [found[0], lucky]) if one is not None]
    assert best == [True, False]  # in the metric that decides, a cell that was dropped is not the best


def test_images_that_are_added_are_those_of_one_long_run(file: Path):
    file.write_text(
        'model = "mixture"\nimages = { until = 0.1, metric = "reference_error", least = 16, most = 48 }\nbatch = 10\n'
        'metrics = ["reference_error", "class_probability"]\n[cells]\nsampler = "ddpm"\nsteps = 4\n',
        encoding="utf-8",
    )
    plan = load_plan(file)
    assert plan.looks == (16, 32, 48)
    bench = ModelBench(plan)
    whole, first, then = (
        bench.run(plan.cells[0], lambda _: None, images) for images in (range(48), range(16), range(16, 48))
    )
    for name, values in whole.per_image.items():
        parts = np.concatenate([first.per_image[name], then.per_image[name]])
        np.testing.assert_allclose(parts, values, rtol=1e-5)
    assert len(then.thumbnails) == then.error_path.size == 0 < first.error_path.size
