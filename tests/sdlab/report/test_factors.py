"""Shares of the variance between cells: known effects are found, and noise is not taken for an effect."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bench import TOML

import sdlab.report.variance
from sdlab.report.factors import factors
from sdlab.report.formats import FORMATS
from sdlab.report.stored_run import opened_run
from sdlab.report.variance import NOISE, REST, SHARED, design, shares
from sdlab.report.view import View
from sdlab.sweep.store import Store
from sdlab.system.errors import UsageError

LEVELS = np.array(list(itertools.product(range(4), range(3), range(3))))  # of 36 cells
A, B, C = LEVELS.T
PLAN = {name: [str(level) for level in column] for name, column in zip("abc", LEVELS.T, strict=True)}
SILENT = np.zeros((36, 0))


def test_exact_effects_have_their_textbook_shares():
    """Sums of squares by hand: each square of a level counts in all cells of the level."""
    a, b, ab = np.array([-3.0, -1, 1, 3]), np.array([-1.0, 0, 1]), np.zeros((4, 3))
    ab[0, 0] = ab[1, 1] = 1.0
    ab[0, 1] = ab[1, 0] = -1.0
    found = shares(7 + a[A] + b[B] + ab[A, B], SILENT, design(PLAN))
    squares = {"a": 9 * 20, "b": 12 * 2, "c": 0, "a × b": 3 * 4, "a × c": 0, "b × c": 0, REST: 0, NOISE: 0}
    assert list(found) == list(squares)
    assert [one.value for one in found.values()] == pytest.approx([one / 216 for one in squares.values()], abs=1e-12)
    assert [one.freedom for one in found.values()] == [3, 2, 2, 6, 6, 4, 12, None]
    assert {one.low for one in found.values()} == {None}


def test_equal_cells_have_no_effects():
    """Not even of rounding, which is larger than such a noise."""
    rng = np.random.default_rng(0)
    for value in (0.9999999, 12345.678):
        found = shares(np.full(36, value), 1e-18 * rng.normal(size=(36, 8)), design(PLAN))
        assert max(one.value for one in found.values()) == pytest.approx(1)
        assert all(one.low == 0 for name, one in found.items() if name != NOISE)


def test_shares_of_a_full_plan_sum_to_one():
    rng = np.random.default_rng(0)
    found = shares(rng.normal(size=36), 0.1 * rng.normal(size=(36, 50)) / 50**0.5, design(PLAN))
    assert sum(one.value for one in found.values()) == pytest.approx(1)


def test_an_unbalanced_plan_has_sums_of_squares_of_type_two():
    """Against residual sums of squares of least squares with and without the effect, on three quarters of the cells."""
    keep = np.random.default_rng(1).permutation(36)[:27]
    values = np.random.default_rng(2).normal(size=36)[keep]
    found = shares(values, SILENT[keep], design({name: [one[i] for i in keep] for name, one in PLAN.items()}))
    dummies = {name: np.eye(4)[[int(one[i]) for i in keep]] for name, one in PLAN.items()}
    terms = dict(dummies)
    for x, y in itertools.combinations("abc", 2):
        terms[f"{x} × {y}"] = (dummies[x][:, :, None] * dummies[y][:, None, :]).reshape(27, -1)

    def residual(names: list[str]) -> float:
        columns = np.hstack([np.ones((27, 1)), *(terms[name] for name in names)])
        return float(np.square(values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]).sum())

    total = np.square(values - values.mean()).sum()
    for name in terms:
        others = [other for other in terms if not set(name.split(" × ")) <= set(other.split(" × "))]
        assert found[name].value == pytest.approx((residual(others) - residual([*others, name])) / total)
    assert found[REST].value == pytest.approx(residual(list(terms)) / total)
    assert sum(one.value for one in found.values()) == pytest.approx(1)
    assert abs(found[SHARED].value) > 0.01


@pytest.mark.parametrize("kept", [36, 27])
def test_the_diagonal_and_the_freedom_are_those_of_a_projection(kept: int):
    chosen = np.random.default_rng(1).permutation(36)[:kept]
    plan = design({name: [one[i] for i in chosen] for name, one in PLAN.items()})
    assert plan.full is (kept == 36)
    for name, effect in plan.effects.items():
        found = effect.of(np.eye(kept))
        projection = found.T @ found
        np.testing.assert_allclose(projection @ projection, projection, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(projection.diagonal(), np.broadcast_to(effect.own, kept), atol=1e-12, err_msg=name)
        assert np.trace(projection) == pytest.approx(effect.freedom)


def test_independent_errors_are_those_of_a_diagonal_matrix():
    rng, plan = np.random.default_rng(0), design(PLAN)
    values, errors = rng.normal(size=36), 0.3 * rng.random(36)
    found, expected = shares(values, errors, plan), shares(values, np.diag(errors), plan)
    for name, one in found.items():
        other = expected[name]
        assert one.value == pytest.approx(other.value, abs=1e-12)
        assert (
            (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-9) if other.low is not None else True
        )


def test_ten_thousand_cells_take_no_decomposition(monkeypatch: pytest.MonkeyPatch):
    """A full plan has none at all. One that is not full has main effects alone if the decomposition would be large."""
    levels = np.array(list(itertools.product(range(4), range(50), range(50)))).T
    factors = {name: [str(level) for level in column] for name, column in zip("abc", levels, strict=True)}
    rng, svd, sizes = np.random.default_rng(0), np.linalg.svd, list[int]()
    monkeypatch.setattr(np.linalg, "svd", lambda a, **more: (sizes.append(a.shape[1]), svd(a, **more))[1])
    values = rng.normal(size=50)[levels[1]] + 0.1 * rng.normal(size=10_000)
    assert shares(values, 0.01 * rng.normal(size=(10_000, 16)), design(factors))["b"].value > 0.95
    assert not sizes
    some = design({name: one[1:] for name, one in factors.items()})
    assert (list(some.effects), some.pairs) == (["a", "b", "c", REST], False)
    assert shares(values[1:], 0.01 * rng.normal(size=(9_999, 16)), some)["b"].value > 0.95
    assert max(sizes) <= 1 + 4 + 50 + 50


def test_a_factor_that_changes_only_with_another_has_no_effect_of_its_own():
    found = design({"a": ["1", "2", "3"], "b": ["x", "y", "y"]})
    assert (list(found.effects), found.full) == (["a"], False)
    assert found.effects["a"].freedom == 1  # beyond b


def simulated(size: float, units: int, repeats: int, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, float], Any]:
    """True shares, and those found in tables of noisy cells: an effect of a and one of a × b."""
    monkeypatch.setattr(sdlab.report.variance, "_DRAWS", 400)
    plan, rng = design(PLAN), np.random.default_rng(3)
    true = size * (np.array([-1.0, 0, 0, 1])[A] + 0.5 * ((A == 0) & (B == 0)))
    spread = np.linalg.cholesky(1.0 + 0.5 * np.equal.outer(A, A) + 0.5 * np.eye(36))  # images, and images × a
    found = []
    for _ in range(repeats):
        values = true[:, None] + spread @ rng.normal(size=(36, units))
        deviations = values - values.mean(axis=1, keepdims=True)
        found.append(shares(values.mean(axis=1), deviations / (units * (units - 1)) ** 0.5, plan))
    noise = np.square(spread - spread.mean(axis=0)).sum() / units
    total = np.square(true - true.mean()).sum() + noise
    return {name: np.square(one.of(true[:, None])).sum() / total for name, one in plan.effects.items()}, found


def test_known_effects_are_recovered_and_their_intervals_cover(monkeypatch: pytest.MonkeyPatch):
    truth, found = simulated(0.5, 64, 60, monkeypatch)
    assert truth["a"] > 0.7
    for name, share in truth.items():
        values = [one[name].value for one in found]
        assert np.mean(values) == pytest.approx(share, abs=0.02)
        covered = sum(one[name].low <= share <= one[name].high for one in found)
        assert covered >= 60 * 0.95 - 4 * (60 * 0.95 * 0.05) ** 0.5
    assert all(one["a"].low > 0.4 for one in found)


def test_noise_alone_is_not_an_effect(monkeypatch: pytest.MonkeyPatch):
    """One interval in forty begins above 0, as that of a two-sided test does."""
    truth, found = simulated(0.0, 64, 60, monkeypatch)
    effects = [name for name in truth if name != "a"]  # noise of images × a makes few directions of `a` vary much
    for name in effects:
        assert abs(np.mean([one[name].value for one in found])) < 0.03
    wrong = sum(one[name].low > 0 for one in found for name in truth)
    count = 60 * len(truth)
    assert wrong <= count / 40 + 4 * (count / 40) ** 0.5
    assert all(one[NOISE].value <= 1 for one in found)
    assert np.mean([one[NOISE].value for one in found]) > 0.85


# In a report

FACTORIAL = TOML.replace('["none", { name = "cfg", scale = 3.0 }]', "[{ name = 'cfg', scale = 2 }, { name = 'cfg' }]")


@pytest.fixture
def directory(finished: Callable[..., Path]) -> Path:
    """A run of 2 samplers × 2 scales × 2 numbers of steps, whose FID depends on network passes alone."""
    return finished(FACTORIAL)


def effects(directory: Path, **options: str) -> list[dict[str, Any]]:
    with opened_run(directory) as run:
        return json.loads(FORMATS["json"](View(factors=True, **options).of(run)))


def test_the_table_has_one_row_per_effect_and_its_intervals(directory: Path):
    found = effects(directory)
    assert [one["effect"] for one in found][:3] == ["sampler", "guidance.scale", "steps"]
    assert list(found[0]) == ["effect", "df", "fid", "fid_low", "fid_high"] + [
        f"clip_score{end}" for end in ("", "_low", "_high")
    ]
    assert sum(one["fid"] for one in found) == pytest.approx(1)
    assert found[0]["clip_score_low"] <= found[0]["clip_score"] <= found[0]["clip_score_high"]
    with opened_run(directory) as run:
        text = FORMATS["md"](View(factors=True).of(run))
    assert "Shares of the variance between 8 cells: sampler (2 values), guidance.scale (2 values), steps" in text


def test_filters_sorting_and_columns_apply(directory: Path):
    found = effects(directory, filter="sampler=ddim", sort="-fid", columns="effect,fid")
    assert {one["effect"] for one in found} == {"guidance.scale", "steps", "guidance.scale × steps", NOISE}
    assert all(list(one) == ["effect", "fid"] for one in found)
    assert [one["fid"] for one in found] == sorted((one["fid"] for one in found), reverse=True)


def test_cells_left_out_make_sums_of_type_two(directory: Path):
    with Store(directory / "results.sqlite") as store:
        store._db.execute("UPDATE cells SET status = 'failed', reason = 'no', metrics = '{}' WHERE rowid = 1")
    with opened_run(directory) as run:
        table = View(factors=True).of(run)
    assert SHARED in table.columns[0].values
    assert any("not a full factorial plan" in line and "(type II)" in line for line in table.caption)
    assert "Cells without values are left out: 1 of 8." in table.caption


def test_a_sweep_says_below_its_table_which_settings_matter(run: Callable[..., Any], no_files: None):
    _, out, _ = run(toml=FACTORIAL)
    assert "Largest shares of the variance between cells: FID (lab): " in " ".join(out.split())
    _, out, _ = run(toml=TOML.replace('["ddim", "heun"]', '"ddim"').replace("steps = [5, 10]", "steps = 5"))
    assert "Largest shares" not in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"filter": "sampler=ddim steps=5"},
            "--factors: needs a metric, and at least three cells whose settings differ",
        ),
        ({"pivot": "steps x scale", "value": "fid"}, "--pivot and --factors are two tables; give one of them"),
        ({"columns": "sampler"}, "--columns: unknown column 'sampler'; known: "),
    ],
)
def test_a_mistake_is_one_line(options: dict[str, str], message: str, directory: Path):
    with opened_run(directory) as run, pytest.raises(UsageError) as caught:
        View(factors=True, **options).of(run)
    (line,) = caught.value.lines
    assert line.startswith(message)


def test_steps_that_follow_from_a_budget_are_not_a_factor(finished: Callable[..., Path]):
    with opened_run(finished(FACTORIAL.replace("steps = [5, 10]", "passes = [6, 12]"))) as opened:
        assert list(factors(opened.rows)) == ["sampler", "guidance.scale", "budget"]
