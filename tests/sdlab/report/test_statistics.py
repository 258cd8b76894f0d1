"""Intervals follow the textbook, and cells that they cannot distinguish from the best are ties."""

import numpy as np
import pytest
from scipy import stats

from sdlab.metrics import METRICS
from sdlab.report.statistics import difference, interval, of_units, standard_error, standings
from sdlab.sweep.cell import Cell, Choice
from sdlab.sweep.store import Row

CELL = Cell(sampler=Choice(name="ddim"), grid=Choice(name="trailing"), guidance=Choice(name="none"), steps=5)
FID, CLIP, ACCURACY = METRICS["fid"], METRICS["clip_score"], METRICS["prompt_accuracy"]
SATURATION = METRICS["saturation"]


def scored(values: np.ndarray) -> Row:
    return Row("", CELL, metrics={"clip_score": float(values.mean())}, per_image={"clip_score": values})


def set_value(value: float, error: float | None) -> Row:
    return Row("", CELL, metrics={"fid": value}, stderr={} if error is None else {"fid": error})


def test_the_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30))
    ours, theirs = difference(CLIP, scored(a), scored(b)), stats.ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose((ours.low, ours.high), theirs, rtol=1e-12)


def test_pairing_distinguishes_cells_that_their_own_errors_would_not():
    """Images differ by 10, cells by 0.5: lost in the noise unpaired (standard error 1), clear when paired."""
    rng = np.random.default_rng(0)
    images, jitter = 10 * rng.normal(size=100), rng.normal(size=(2, 100))
    best, behind = scored(images + jitter[0] + 0.5), scored(images + jitter[1])
    assert stats.ttest_ind(best.per_image["clip_score"], behind.per_image["clip_score"]).pvalue > 0.5
    assert [s.best for s in standings(CLIP, [best, behind])] == [True, False]
    assert not standings(CLIP, [best, behind])[1].ties


def test_cells_that_differ_by_chance_alone_tie_in_95_of_100_cases():
    rng, n = np.random.default_rng(0), 4000
    pairs = rng.normal(size=(n, 2, 25))
    inside = sum(difference(CLIP, scored(a), scored(b)).ties for a, b in pairs)
    assert inside / n == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / n) ** 0.5)


@pytest.mark.parametrize(("gap", "ties"), [(2.7, True), (2.85, False)])
def test_metrics_of_a_set_tie_within_1_96_errors_of_the_difference(gap, ties):
    """1.96 × √(1² + 1²) = 2.77."""
    assert standings(FID, [set_value(20, 1.0), set_value(20 + gap, 1.0)])[1].ties is ties


def test_without_standard_errors_only_equals_tie():
    first, same, other = standings(FID, [set_value(20, None), set_value(20, None), set_value(20.01, None)])
    assert (first.best, same.ties, other.ties) == (True, True, False)


def test_the_best_is_lowest_or_highest_by_metric_and_failures_have_no_standing():
    rows = [Row("", CELL, reason="NaN"), set_value(20, 0.1), set_value(10, 0.1)]
    assert [s and s.best for s in standings(FID, rows)] == [None, False, True]
    rows = [scored(np.full(4, 20.0)), scored(np.full(4, 30.0))]
    assert [s.best for s in standings(CLIP, rows)] == [False, True]


def test_standard_errors_are_those_of_the_textbook():
    a, b = np.random.default_rng(0).normal(size=(2, 30))
    assert standard_error(CLIP, scored(a)) == pytest.approx(stats.sem(a), rel=1e-12)
    assert difference(CLIP, scored(a), scored(b)).error == pytest.approx(stats.sem(a - b), rel=1e-12)
    assert standard_error(FID, set_value(20, 1.5)) == 1.5
    assert difference(FID, set_value(20, 3.0), set_value(10, 4.0)).error == pytest.approx(5.0)


def of_set(replicates: np.ndarray) -> Row:
    return Row("", CELL, metrics={"fid": float(replicates[0].mean())}, replicates={"fid": replicates})


def test_metrics_of_a_set_are_paired_by_their_replicates():
    rng = np.random.default_rng(0)
    common, own = 10 * rng.normal(size=80), rng.normal(size=(2, 80))
    rows = [of_set(np.stack([common + values, np.zeros(80)])) for values in own]
    assert difference(FID, *rows).error == pytest.approx(stats.sem(own[0] - own[1]))
    assert standard_error(FID, rows[0]) == pytest.approx(stats.sem(common + own[0]))


@pytest.mark.parametrize("prompts", [8, 32])
def test_intervals_over_all_prompts_cover_if_prompts_repeat(prompts: int):
    """256 images: the effect of a prompt on the difference of two cells is as large as that of the noise."""
    rng, images, cases = np.random.default_rng(0), 256, 2000
    units = np.arange(images) % prompts
    inside = 0
    for _ in range(cases):
        gaps = rng.normal(size=prompts)[units] + rng.normal(size=images)
        found = difference(CLIP, scored(gaps), scored(np.zeros(images)), units)
        inside += found.low <= 0 <= found.high
    assert inside / cases == pytest.approx(0.95, abs=0.015)


def test_prompts_with_unequal_numbers_of_images_keep_the_mean():
    values, units = np.random.default_rng(0).normal(size=11), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]
    found = of_units(CLIP, scored(values), units)
    assert found is not None
    assert found.shape == (1, 5)
    assert found.mean() == pytest.approx(values.mean())


def test_few_prompts_are_not_a_sample_of_prompts():
    values = np.random.default_rng(0).normal(size=12)
    assert standard_error(CLIP, scored(values), [i % 3 for i in range(12)]) == pytest.approx(stats.sem(values))


def share(values: np.ndarray) -> Row:
    return Row("", CELL, metrics={"prompt_accuracy": float(values.mean())}, per_image={"prompt_accuracy": values})


def test_the_interval_of_a_share_is_wilsons():
    values = np.r_[np.ones(117), np.zeros(11)]
    expected = stats.binomtest(117, 128).proportion_ci(method="wilson")
    assert interval(ACCURACY, share(values)) == pytest.approx(tuple(expected), abs=2e-3)  # z is 1 % below t


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_of_0_or_1_is_uncertain(value: float):
    """At one standard error, Wilson's interval of n out of n ends at n/(n + 1)."""
    found = share(np.full(128, value))
    assert standard_error(ACCURACY, found) == pytest.approx(1 / 129)
    low, high = interval(ACCURACY, found) or (0, 0)
    assert (low, high) == pytest.approx((0.971, 1.0) if value else (0.0, 0.029), abs=1e-3)


@pytest.mark.parametrize("chance", [0.9, 0.98])
def test_intervals_of_shares_near_1_cover(chance: float):
    rng, cases = np.random.default_rng(0), 2000
    found = [interval(ACCURACY, share((rng.random(128) < chance).astype(float))) for _ in range(cases)]
    inside = np.mean([low <= chance <= high for low, high in found])  # type: ignore[misc]
    assert inside == pytest.approx(0.95, abs=0.02)  # by binomtest's intervals .954 and .962, since shares are discrete


def test_a_share_is_measured_with_its_error():
    found = ACCURACY.error(0.0, 4), ACCURACY.error(0.3, 4), CLIP.error(0.0, 4)
    assert found == (0.2, 0.3, 0.0)


def coloured(*values: float) -> Row:
    """A row with one saturation per image."""
    found = np.asarray(values)
    return Row("", CELL, metrics={"saturation": float(found.mean())}, per_image={"saturation": found})


def test_nearer_to_real_is_better_from_both_sides():
    noise = 0.01 * np.random.default_rng(0).normal(size=40)
    noise -= noise.mean()
    rows = [coloured(*(value + noise)) for value in (0.2, 0.35, 0.6)]
    found = standings(SATURATION, rows, real=0.4)
    assert [one.best for one in found] == [False, True, False]
    assert [one.difference for one in found] == pytest.approx([0.15, 0, 0.15])  # of the distances .2, .05 and .2
    assert found[0].error == pytest.approx(0)  # the noise is the same
    assert found[2].error == pytest.approx(2 * stats.sem(noise))  # on the other side, where it adds up
    near = [coloured(*(value + noise)) for value in (0.2001, 0.6)]
    assert [(one.best, one.ties) for one in standings(SATURATION, near, real=0.4)] == [(True, False), (False, True)]


def test_without_the_value_of_real_pictures_none_is_the_best():
    assert standings(SATURATION, [coloured(0.2, 0.3), coloured(0.4, 0.5)]) == [None, None]


def test_a_share_that_rounding_made_one_has_an_interval():
    """Probabilities of almost 1, whose mean in single precision is 1."""
    values = 1 - 1e-8 * np.arange(1, 65)
    row = Row("", CELL, metrics={"class_probability": 1.0}, per_image={"class_probability": values})
    found = interval(METRICS["class_probability"], row)
    assert found is not None
    assert found[0] < values.mean() < found[1] <= 1
