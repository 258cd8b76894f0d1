"""The best of many equal cells looks better than it is, and its corrected value does not."""

import numpy as np
import pytest

from sdlab.metrics import METRICS
from sdlab.report.selection import corrected_best
from sdlab.sweep.cell import Cell, Choice
from sdlab.sweep.store import Row

CELL = Cell(sampler=Choice(name="ddim"), grid=Choice(name="trailing"), guidance=Choice(name="none"), steps=5)
CLIP, PSNR, FID = (METRICS[name] for name in ("clip_score", "psnr", "fid"))


def scored(values: np.ndarray) -> Row:
    return Row("", CELL, metrics={"clip_score": float(values.mean())}, per_image={"clip_score": values})


def test_of_equal_cells_the_best_is_too_good_and_the_corrected_one_is_not():
    rng, best, corrected = np.random.default_rng(0), [], []
    for _ in range(200):
        rows = [scored(values) for values in rng.normal(size=(12, 50))]
        best.append(max(row.metrics["clip_score"] for row in rows))
        corrected.append(corrected_best(CLIP, rows))
    error = np.std(corrected) / 200**0.5
    assert np.mean(best) > 0.2  # 1.63 standard errors of 1/√50
    assert abs(np.mean(corrected)) < 4 * error
    assert error < 0.02


def test_a_clear_winner_needs_no_correction():
    values = np.random.default_rng(0).normal(size=(3, 40)) + np.array([[0], [100], [0]])
    assert corrected_best(CLIP, [scored(one) for one in values]) == pytest.approx(values[1].mean())


def test_lower_is_better_where_the_metric_says_so_and_replicates_stand_for_a_set():
    replicates = np.random.default_rng(0).normal(size=(6, 2, 40)) + 20
    rows = [Row("", CELL, metrics={"fid": 5 + float(one[0].mean())}, replicates={"fid": one}) for one in replicates]
    found = corrected_best(FID, rows)
    assert found is not None
    assert min(row.metrics["fid"] for row in rows) < found < 26


def test_one_cell_or_values_without_units_have_no_correction():
    assert corrected_best(CLIP, [scored(np.arange(9.0))]) is None
    assert corrected_best(FID, [Row("", CELL, metrics={"fid": value}) for value in (1.0, 2.0)]) is None
