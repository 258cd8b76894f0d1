"""What a sweep of very many cells costs beside sampling, and what several workers give.

pytest tests/benchmarks/test_many_cells.py --benchmark-enable
"""

from pathlib import Path
from time import perf_counter, process_time

import pytest
from fake_bench import TOML, result
from rich.console import Console

from sdlab.commands.sweep import sweep
from sdlab.report.page.heat_map import heat_map
from sdlab.report.shown import is_crowded
from sdlab.report.table import make_table
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.cell import Cell
from sdlab.sweep.identity import identify
from sdlab.sweep.plan import Plan, load_plan
from sdlab.sweep.store import Row

FEW, MANY = 200, 800
EXACT = """
model = "mixture"
images = 4096
batch = 512
device = "cpu"
metrics = ["class_probability"]
[cells]
sampler = ["euler", "heun", "dpmpp_2m", "ddim"]
steps = [100, 101, 102, 103]
"""


def planned(folder: Path, count: int) -> Plan:
    path = folder / f"cells{count}.toml"
    steps = f"steps = {list(range(1, count // 4 + 1))}"
    path.write_text(TOML.replace("steps = [5, 10]", steps).replace('"fid", ', ""), encoding="utf-8")
    return load_plan(path)


def row(cell: Cell, passes: float) -> Row:
    found = result(cell.model_copy(update={"steps": 1}))
    return Row(cell.label, cell, metrics=found.metrics, per_image=found.per_image, network_passes=passes)


@pytest.mark.benchmark(group="very many cells")
def test_a_report_has_no_quadratic_scan(benchmark, tmp_path):
    """The process time of table and map grows with the number of cells, not with its square."""
    spent = []
    for count in (FEW, MANY):
        plan = planned(tmp_path, count)
        rows = [row(cell, float(cell.steps)) for cell in plan.cells]
        start = process_time()
        is_crowded(rows)
        heat_map(rows, [1.0] * len(rows))
        make_table(plan, rows)
        spent.append(process_time() - start)
    benchmark(lambda: is_crowded(rows))
    benchmark.extra_info["ms_per_cell"] = [1000 * seconds / n for seconds, n in zip(spent, (FEW, MANY), strict=True)]
    assert spent[1] < 2 * MANY / FEW * spent[0]  # 16 times as much if it were quadratic


@pytest.mark.slow
@pytest.mark.benchmark(group="workers")
def test_two_workers_on_the_processor(benchmark, tmp_path):
    """The throughput beside one process that has the same cores. With benchmarks disabled, both run."""
    path = tmp_path / "quick.toml"
    text = EXACT if benchmark.enabled else EXACT.replace("4096", "64").replace("100, 101, 102, 103", "2")
    path.write_text(text, encoding="utf-8")
    seconds = {}
    for name, devices in (("one", ["cpu"]), ("two", ["cpu", "cpu"])):
        options = {"out": tmp_path / name, "console": Console(quiet=True), "overrides": {"device": devices}}
        start = perf_counter()
        assert sweep(path, identify, ModelBench, **options) == 0  # type: ignore[arg-type]
        seconds[name] = perf_counter() - start
    benchmark(lambda: None)
    benchmark.extra_info.update(seconds, ratio=seconds["one"] / seconds["two"])
