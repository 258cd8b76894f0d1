"""Sweeps of custom models, from a file beside the sweep or from a package, and of exact models."""

from __future__ import annotations

import csv
import importlib
import importlib.metadata
import io
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

import samplers
from samplers.exact.families import NO_CLASS
from sdlab import guidance, plugins
from sdlab.backends.exact_models import class_mixture, gaussian
from sdlab.commands.app import app
from sdlab.commands.sweep import sweep
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.cell import Choice
from sdlab.sweep.identity import identify
from sdlab.sweep.plan import load_plan
from sdlab.sweep.preflight import check
from sdlab.sweep.store import Row, Store

STD = 0.5
MINE = """
    import samplers

    def mine(std: float = 0.5):
        def denoise(x, sigma):
            return x * std**2 / (std**2 + sigma**2)
        return denoise, samplers.continuous_levels(0.05, 10.0), (3,)
"""
TOML = """
model = "mine.py:mine"
images = 6
batch = 4
device = "cpu"
metrics = ["reference_error"]
[cells]
sampler = "heun"
grid = { name = "karras", ending = "stop_at_sigma_min" }
steps = [8, 16, 32]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new working directory with `mine.py`. Plots are tested elsewhere."""
    monkeypatch.chdir(tmp_path)
    write("mine.py", MINE)
    monkeypatch.setattr("sdlab.report.plots.plot_metric", lambda path, *_: path.touch())


def write(name: str, text: str) -> None:
    Path(name).write_text(textwrap.dedent(text), encoding="utf-8")


def run(toml: str = TOML, **options: Any) -> tuple[int, str]:
    """The exit status of the sweep `toml`, and what it prints."""
    Path("sweep.toml").write_text(toml, encoding="utf-8")
    console = Console(file=io.StringIO(), width=200)
    status = sweep("sweep.toml", identify, ModelBench, console=console, **options)
    return status, console.file.getvalue()  # type: ignore[attr-defined]


def rows() -> list[Row]:
    """Those of the last sweep, in the order of its file."""
    keys = [row["key"] for row in csv.DictReader(io.StringIO(Path("runs/sweep/table.csv").read_text("utf-8")))]
    with Store(Path("runs/sweep/results.sqlite")) as store:
        return store.rows(keys)


def errors() -> list[float]:
    return [row.metrics["reference_error"] for row in rows()]


def start(images: int, dimensions: int, sigma: float) -> Tensor:
    return samplers.seeded(range(images))(torch.empty(images, dimensions)) * sigma


# A user's run.


def test_a_budget_gives_steps_on_the_models_noise_schedule():
    """Heun makes two calls per step, except in the last step to σ = 0. This grid ends above 0."""
    Path("sweep.toml").write_text(TOML.replace("steps = [8, 16, 32]", "passes = [5, 10]"), encoding="utf-8")
    cells = load_plan("sweep.toml").cells
    assert [(cell.budget, cell.steps) for cell in cells] == [(5, 2), (10, 5)]
    assert run(TOML.replace("steps = [8, 16, 32]", "passes = [5, 10]"))[0] == 0


def test_a_model_from_a_file_sweeps_and_heuns_error_falls_fourfold_when_steps_double():
    status, out = run()
    assert status == 0
    assert "model mine.py:mine, grid karras ending=stop_at_sigma_min, guidance none, 6 images per cell" in out
    coarse, middle, fine = errors()
    assert coarse / middle == pytest.approx(4, rel=0.3)
    assert middle / fine == pytest.approx(4, rel=0.2)
    assert [row.network_passes for row in rows()] == [16, 32, 64]
    directory = {path.name for path in Path("runs/sweep").iterdir() if not path.name.startswith(".")}
    tables = {"table.csv", "table.md", "reference_error.png", "error_along_sigma.png", "report.html"}
    assert directory == {"plan.json", "results.sqlite", *tables}
    assert "all 3 cells were done already" in run()[1]


def test_reference_error_is_the_distance_from_the_exact_flow_image_by_image():
    run(TOML.replace("[8, 16, 32]", "8"))
    levels = samplers.continuous_levels(0.05, 10.0)
    sigmas = samplers.grid("karras", steps=8, levels=levels, ending="stop_at_sigma_min")
    x = start(6, 3, 10.0).double()
    got = samplers.run(samplers.make("heun"), lambda x, s: x * STD**2 / (STD**2 + s**2), x, sigmas)
    exact = x * ((STD**2 + 0.05**2) / (STD**2 + 10.0**2)) ** 0.5
    [row] = rows()
    distances = (got - exact).square().mean(1).sqrt()
    np.testing.assert_allclose(row.per_image["reference_error"], distances, rtol=1e-3)
    assert row.metrics["reference_error"] == pytest.approx(float(distances.mean()), rel=1e-3)


def test_options_and_code_are_part_of_a_rows_key():
    run(TOML.replace("[8, 16, 32]", "8"))
    [first] = rows()
    table = TOML.replace("[8, 16, 32]", "8").replace('"mine.py:mine"', '{ path = "mine.py:mine", std = 0.5 }')
    assert "done already" in run(table)[1]  # the default, written out
    run(table.replace("std = 0.5", "std = 0.9"))
    [second] = rows()
    write("mine.py", MINE.replace("x * std**2", "0.9 * x * std**2"))
    run(table)
    [third] = rows()
    assert len({first.key, second.key, third.key}) == 3
    assert len({row.metrics["reference_error"] for row in (first, second, third)}) == 3


def test_a_file_of_weights_that_the_model_names_counts_too():
    saying = MINE.replace(
        "import samplers",
        "from pathlib import Path\n    import samplers\n    from sdlab.backends.custom_model import CustomModel",
    )
    saying = saying.replace("return denoise, samplers", "return CustomModel(denoise, samplers").replace(
        "(3,)", '(3,), files=(Path("weights"),))'
    )
    write("mine.py", saying)
    toml, keys = TOML.replace("[8, 16, 32]", "8"), set()
    for content in ("1", "2", "2"):
        Path("weights").write_text(content)
        assert run(toml)[0] == 0
        keys.add(rows()[0].key)
    assert len(keys) == 2


class Point:
    name, value, dist = "theirs", "pack:theirs", None

    def load(self) -> Callable[..., Any]:
        return lambda: (lambda x, sigma: x / (1 + sigma**2), samplers.discrete_levels(), (2, 4, 4))


def test_a_model_of_an_installed_package_sweeps_by_its_name(monkeypatch: pytest.MonkeyPatch):
    found = {"sdlab.models": [Point()]}
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found.get(group, []))
    monkeypatch.setattr(plugins, "_discovered", False)
    plugins.discover()
    assert run(TOML.replace("mine.py:mine", "theirs").replace("[8, 16, 32]", "[8, 16]"))[0] == 0
    assert errors()[0] > 2 * errors()[1] > 0


def test_a_package_cannot_replace_a_model_of_sdlab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    point = Point()
    point.name = "gaussian"
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: {"sdlab.models": [point]}.get(group, []))
    monkeypatch.setattr(plugins, "_discovered", False)
    plugins.discover()
    try:
        Path("sweep.toml").write_text(TOML.replace("mine.py:mine", "gaussian"), "utf-8")
        assert load_plan("sweep.toml").opened.label == "gaussian"
        assert "warning: two models are named 'gaussian'; the built-in one is used" in capsys.readouterr().err
    finally:
        del plugins.MODELS["gaussian"]


def test_unused_settings_are_ignored_with_a_note():
    toml = TOML.replace("images = 6", 'images = 6\ndtype = "bfloat16"\ncompile = true')
    Path("sweep.toml").write_text(toml.replace("[cells]", '[prompts]\nlist = ["a"]\nnegative = "b"\n[cells]'), "utf-8")
    plan = load_plan("sweep.toml")
    assert (plan.prompts, plan.negative, plan.dtype, plan.compile) == ((), "", "float32", False)
    assert plan.notes == tuple(
        f"model mine.py:mine ignores {what}" for what in ("compile", "dtype bfloat16", "prompts")
    )


def test_a_dry_run_counts_the_passes_of_cells_and_of_their_references():
    status, out = run(dry_run=True)
    assert status == 0
    fine = 500 + 12  # the levels of `samplers.converged`
    assert f"3 of 3 cells to run, 6 images each: {6 * (16 + 32 + 64)} network passes, and {6 * fine:,} for the" in out
    exact = TOML.replace("mine.py:mine", "gaussian")
    assert "for the reference errors" not in run(exact, dry_run=True)[1]


# Exact models.


def test_the_exact_flow_and_the_fine_run_agree():
    write(
        "mine.py",
        """
        from sdlab.backends.exact_models import gaussian

        def mine():
            known = gaussian()
            return known.denoise, known.levels, known.shape
        """,
    )
    run(TOML.replace("mine.py:mine", "gaussian"))
    exact = [row.per_image["reference_error"] for row in rows()]
    run()
    for known, found in zip(exact, (row.per_image["reference_error"] for row in rows()), strict=True):
        np.testing.assert_allclose(found, known, rtol=0.02, atol=2e-6)


def test_w2_is_that_of_two_gaussians_after_one_step_and_after_many():
    status, _ = run(
        TOML.replace("mine.py:mine", "gaussian").replace('"reference_error"', '"w2"')
        .replace(', ending = "stop_at_sigma_min"', "").replace("[8, 16, 32]", "[1, 100]")
    )  # fmt: skip
    assert status == 0
    law = gaussian().law
    assert law is not None
    top = samplers.discrete_levels().sigma_max
    mean, std = torch.as_tensor(law.mean), torch.as_tensor(law.std)
    one, hundred = rows()
    # From N(0, σ²) an Euler step to 0 multiplies by std²/(std² + σ²), the flow by the root of that; both leave the
    # mean behind by the same factor.
    for row, factor in ((one, std**2 / (std**2 + top**2)), (hundred, std / (std**2 + top**2).sqrt())):
        wanted = ((factor * mean).square() + (factor * top - std).square()).sum().sqrt()
        assert row.metrics["w2"] == pytest.approx(float(wanted), rel=1e-6 if row is one else 0.02)


@pytest.mark.slow
def test_guidance_on_the_class_mixture_ends_where_its_guided_flow_does():
    toml = TOML.replace('"mine.py:mine"', '{ name = "class_mixture", classes = 2 }').replace("[8, 16, 32]", "[10, 40]")
    rules = 'guidance = ["none", { name = "cfg", scale = 1.0 }, { name = "cfg", scale = 3.0 }]'
    assert run(toml + rules)[0] == 0
    none, none_fine, one, _, three, three_fine = rows()
    assert none.network_passes == one.network_passes == three.network_passes / 2
    np.testing.assert_array_equal(none.per_image["reference_error"], one.per_image["reference_error"])
    for coarse, fine in ((none, none_fine), (three, three_fine)):
        assert coarse.metrics["reference_error"] > 8 * fine.metrics["reference_error"]
    model = class_mixture(classes=2)
    sigmas = samplers.grid("karras", steps=10, levels=model.levels)
    classes = torch.tensor([[0], [1]]).repeat(3, 1)
    contexts = {"cond": classes, "uncond": torch.full((6, 1), NO_CLASS)}
    guided = guidance.Guided(guidance.make("cfg", scale=3.0), model.denoise, contexts)
    wanted = samplers.reference(guided, start(6, 2, sigmas[0]), (sigmas[0], model.levels.sigma_min, 0.0))
    ends = ModelBench(load_plan("sweep.toml")).flow_ends.of(Choice(name="cfg", options={"scale": 3.0}), sigmas)
    torch.testing.assert_close(ends.double(), wanted, atol=1e-4, rtol=1e-4)


def test_a_model_that_draws_pictures_has_a_contact_sheet():
    toml = TOML.replace('"mine.py:mine"', '{ name = "data_set", count = 5, side = 8 }').replace("[8, 16, 32]", "20")
    assert run(toml.replace(', ending = "stop_at_sigma_min"', "").replace("heun", "dpmpp_2m"))[0] == 0
    assert Path("runs/sweep/contact_sheet.png").is_file()
    assert errors()[0] < 0.05  # its samples are pictures of the set


@pytest.mark.slow
def test_the_lab_model_can_be_measured_against_its_own_flow():
    toml = TOML.replace("mine.py:mine", "scenes").replace("images = 6", "images = 2").replace("[8, 16, 32]", "[4, 16]")
    toml = toml.replace(', ending = "stop_at_sigma_min"', "").replace("heun", "dpmpp_2m")
    toml = "reference_steps = 60\n" + toml
    assert run(toml.replace("[cells]", '[prompts]\nlist = ["a red circle"]\n[cells]'))[0] == 0
    assert errors()[0] > 2 * errors()[1] > 0


def test_they_are_listed():
    done = CliRunner().invoke(app, ["list", "models"])
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["scenes", "portraits", "sd15", "class_mixture", "data_set", "gaussian", "mixture"]


# What is wrong with them.

NO = "model: mine.py:mine: is not a model: "
DENOISE = "return x * std**2 / (std**2 + sigma**2)"
WRONG = [
    ("import samplers", "import nothing_like_it", "model: mine.py: cannot be imported: ModuleNotFoundError: No mod"),
    ("def mine", "def yours", "model: mine.py: does not define 'mine'; it defines yours"),
    ("def denoise", "1 / 0\n    def denoise", NO + "ZeroDivisionError: division by zero (line 5 of mine.py)"),
    ("return denoise, samplers", "return samplers", NO + "it should return (denoise, levels, shape) or a CustomModel, "
     "got a tuple of 2"),
    ("samplers.continuous_levels(0.05, 10.0)", "[1, 2]", NO + "levels should be a noise schedule like samplers.cont"),
    ("(3,)\n", "3\n", NO + "shape should be the shape of one sample, like (3, 32, 32), got 3"),
    (DENOISE, "return x[:, :1]", NO + "its denoiser turns x of shape (2, 3) into one of shape (2, 1)"),
    (DENOISE, "return x * float('nan')", NO + "its denoiser returns NaN or infinity at sigma 10"),
    (DENOISE, "return x.nonsense", NO + "AttributeError: 'Tensor' object has no attribute 'nonsense' (line 6 of mine"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line"), WRONG, ids=[line[-40:] for *_, line in WRONG])
def test_a_file_without_a_model_is_one_line_with_its_traceback_in_the_log(
    old: str, new: str, line: str, capsys: pytest.CaptureFixture[str]
):
    write("mine.py", textwrap.dedent(MINE).replace(textwrap.dedent(old), new))
    assert run()[0] == 2
    [said] = capsys.readouterr().err.splitlines()
    assert line in said
    if "does not define" not in said:
        assert said.endswith("; traceback in out/plugins.log")
        assert "Traceback (most recent call last)" in Path("out/plugins.log").read_text(encoding="utf-8")
    assert not Path("runs").exists()


ASKED = [
    ('"reference_error"', '"fid", "clip_score"',
     "metrics: fid, clip_score: not possible, because mine.py:mine makes no pictures of a known"),
    ('"reference_error"', '"w2"', "metrics: w2: needs a model with Gaussian data, like "),
    ('"reference_error"', "", 'metrics: model mine.py:mine draws no pictures; choose a metric that needs '),
    ("steps =", 'guidance = { name = "cfg", scale = 3.0 }\nsteps =', 'guidance: cfg scale=3: model mine.py:mine has no '
     'conditions; use "none"'),
    ('"mine.py:mine"', '{ path = "mine.py:mine", sdt = 1.0 }', "sweep.toml: model.sdt: unknown option of mine.py:mine "
     "(did you mean 'std'?); it takes: std"),
    ('"mine.py:mine"', '{ path = "mine.py:mine", std = "x" }', "sweep.toml: model.std: should be a number, got 'x'"),
    ('"mine.py:mine"', '{ name = "mixture", std = -1.0 }', "sweep.toml: model.std: must be a number above 0, got -1.0"),
    ('"karras", ', '"trailing", ', "sweep.toml: cells.grid[0]: grid 'trailing' is spaced in time and "
     "needs a noise schedule with a time"),
    ("steps =", 'strength = 0.5\nsteps =', "sweep.toml: cells.strength: `strength` goes with input pictures"),
    ("[cells]", '[image]\nset = "scenes"\n[cells]', "image: model mine.py:mine cannot start from pictures"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line"), ASKED, ids=[line[:40] for *_, line in ASKED])
def test_settings_that_a_custom_model_does_not_support_are_reported_before_it_runs(
    old: str, new: str, line: str, capsys: pytest.CaptureFixture[str]
):
    assert run(TOML.replace(old, new))[0] == 2
    said = capsys.readouterr().err.splitlines()
    assert line in said[0]
    assert len(said) == 1
    assert not Path("runs").exists()


def test_a_denoiser_that_fails_in_the_middle_fails_its_cells():
    write(
        "mine.py", MINE.replace("return x *", "if 1 < sigma < 2: raise ValueError('not here')\n            return x *")
    )
    status, out = run()
    assert status == 1
    assert "3 of 3 cells failed" in out
    assert out.count("ValueError: not here (line 6 of mine.py)") == 6  # as each cell ends, and in the report
    assert "Tracebacks are in runs/sweep/errors.log" in out
    log = Path("runs/sweep/errors.log").read_text(encoding="utf-8")
    assert log.count("ValueError: not here") == 3
    assert "in denoise" in log


def test_a_metric_file_that_no_metric_reads_is_reported(capsys: pytest.CaptureFixture[str]):
    write("sweep.toml", f'{TOML}[metric_files]\nclip = "openai"\n')
    check(load_plan(Path("sweep.toml")))
    assert (
        capsys.readouterr().err
        == "note: metric_files.clip: has no effect, because it is only for cmmd, clip_score, directional_similarity\n"
    )
