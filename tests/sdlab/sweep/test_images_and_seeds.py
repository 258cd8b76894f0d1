"""Numbers of images and first seeds as axes: a cell with them is the cell of a sweep that has them for all cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_bench import TOML, FakeBench, result

from sdlab.report.stored_run import opened_run
from sdlab.report.view import View
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.cell import Cell
from sdlab.sweep.plan import load_plan
from sdlab.sweep.results import CellResult
from sdlab.system.errors import UsageError

pytestmark = pytest.mark.usefixtures("only_tables")
EXACT = """
model = "class_mixture"
metrics = ["class_probability", "mmd"]
[cells]
sampler = "ddim"
steps = 4
"""
NUMBERS = TOML.replace("images = 16\n", "").replace("steps = [5, 10]", "steps = 5\nimages = [16, 32]")
SEEDS = TOML.replace("steps = [5, 10]", "steps = 5\nseed = [0, 16, 32, 48]")


class CountingBench(FakeBench):
    """Has as many values as images."""

    def run(self, cell: Cell, on_progress: Callable[[float], None], images: range) -> CellResult:
        super().run(cell, on_progress, images)
        return result(cell, len(images))


def measured(file: Path, toml: str) -> list[CellResult]:
    file.write_text(toml)
    plan = load_plan(file)
    bench = ModelBench(plan)
    return [bench.run(cell, lambda _: None, range(plan.images_of(cell))) for cell in plan.cells]


def mistakes(file: Path, toml: str) -> str:
    file.write_text(toml)
    with pytest.raises(UsageError) as caught:
        load_plan(file)
    return str(caught.value).replace(f"{file}: ", "")


def test_a_cell_with_fewer_images_has_the_first_of_them(file: Path):
    few, many = measured(file, EXACT + "images = [16, 32]\n")
    [alone] = measured(file, "images = 16" + EXACT)
    for one in (few, alone):
        assert np.array_equal(one.per_image["class_probability"], many.per_image["class_probability"][:16])
    assert few.metrics == alone.metrics
    assert few.metrics["mmd"] != many.metrics["mmd"]


def test_a_first_seed_moves_the_images(file: Path):
    first, second = measured(file, "images = 16" + EXACT + "seed = [0, 16]\n")  # of 4 classes, which repeat
    [whole] = measured(file, "images = 32" + EXACT)
    joined = np.concatenate([one.per_image["class_probability"] for one in (first, second)])
    assert np.array_equal(joined, whole.per_image["class_probability"])


def test_cells_of_other_numbers_and_seeds_are_kept_when_the_list_grows(run: Callable[..., tuple[int, str, list[str]]]):
    assert len(run(CountingBench(), NUMBERS)[2]) == 8
    assert run(CountingBench(), NUMBERS.replace("[16, 32]", "[16, 32, 64]"))[2] == [
        f"{sampler} · trailing · {guidance} · 5 steps · 64 images"
        for sampler in ("ddim", "heun")
        for guidance in ("none", "cfg scale=3")
    ]


def test_the_table_has_the_axis_and_does_not_rank_what_depends_on_it(
    run: Callable[..., tuple[int, str, list[str]]], tmp_path: Path
):
    status, text, _ = run(CountingBench(), NUMBERS)
    assert status == 0
    with opened_run(tmp_path / "runs" / "quick") as stored:
        assert not stored.notes
        table = View().of(stored)
        columns = {column.name: column for column in table.columns}
        assert columns["images"].values == (16, 32) * 4
        assert set(columns["fid_standing"].values) == {None}
        assert "best" in columns["clip_score_standing"].values
        assert View(filter="images=32").of(stored).columns[0].values == ("ddim", "ddim", "heun", "heun")
        with pytest.raises(UsageError, match="--factors: the cells differ in images or seed"):
            View(factors=True).of(stored)
    assert "FID (lab) depends on the number of images, so cells with different numbers are not ranked." in text
    assert "16 to 32 images per cell" in text


def test_repeated_runs_have_a_table_of_their_own(run: Callable[..., tuple[int, str, list[str]]], tmp_path: Path):
    run(CountingBench(), SEEDS)
    text = (tmp_path / "runs" / "quick" / "repeats.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(("| ddim", "| heun"))]
    assert len(rows) == 4
    assert all(row.split("|")[3].strip() == "4" for row in rows)  # runs


@pytest.mark.parametrize(
    ("toml", "wrong"),
    [
        (TOML.replace("steps = [5, 10]", "steps = 5\nimages = [16, 32]"), "cells.images: `images` is given for all"),
        ("seed = 3" + SEEDS, "cells.seed: `seed` is given for all cells too; keep one of them"),
        (SEEDS.replace("48]", "40]"), "cells.seed: 32 and 40 share images, because a cell has 16; leave 16 between"),
        (SEEDS.replace('"fid"', '"reference_error"'), "cells.seed: reference_error follows the flow of one set of"),
        (SEEDS.replace("[0, 16, 32, 48]", "[-1]"), "cells.seed[0]: should be at least 0, got -1"),
        (NUMBERS.replace("[16, 32]", "[0]"), "cells.images[0]: should be at least 1, got 0"),
    ],
)
def test_mistakes_in_the_axes_are_one_line(file: Path, toml: str, wrong: str):
    text = mistakes(file, toml)
    assert text.startswith(wrong)
    assert "\n" not in text


def test_numbers_of_images_as_an_axis_do_not_stop_early(file: Path):
    until = 'images = { until = 0.1, metric = "clip_score", most = 64 }\n'
    text = mistakes(file, until + NUMBERS.replace('"fid", ', ""))
    assert "cells.images: does not work with `until`; give `images` a number" in text
