"""`sdlab statistics`: what it writes, how a sweep takes it, and its mistakes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from samplers.statistics_file import load_statistics
from sdlab.commands.statistics import run
from sdlab.commands.sweep import sweep
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.sweep.plan import load_plan
from sdlab.sweep.store import Store
from sdlab.system.errors import UsageError

TOML = """
model = "MODEL"
images = 64
metrics = ["reference_error"]
[cells]
sampler = ["dpmpp_2m", "unipc", { name = "dpm_solver_v3", statistics = "FILE", corrector = "exact" }]
grid = "exponential"
guidance = "GUIDANCE"
steps = [5, 8]
"""


def measure(
    out: Path, model: str = "gaussian", guidance: str = "none", levels: int = 60, images: int = 256
) -> tuple[int, str]:
    """Measure statistics: the exit status, and what is printed."""
    given = {"model": model, "images": images, "seed": 100_000, "batch": 64, "device": "cpu", "dtype": "float32"}
    console = Console(file=io.StringIO(), width=250)
    status = run(given, guidance, levels, None, identify, ModelBench, out=out, console=console)
    return status, console.file.getvalue()  # type: ignore[attr-defined]


def write(model: str = "gaussian", guidance: str = "none") -> None:
    toml = TOML.replace("MODEL", model).replace("GUIDANCE", guidance).replace("FILE", "statistics.safetensors")
    Path("sweep.toml").write_text(toml, encoding="utf-8")


def swept() -> dict[tuple[str, int], float]:
    """The reference errors of the sweep, by sampler and steps."""
    assert sweep("sweep.toml", identify, ModelBench, console=Console(file=io.StringIO())) == 0
    with Store(Path("runs/sweep/results.sqlite")) as store:
        return {(row.cell.sampler.name, row.cell.steps): row.metrics["reference_error"] for row in store.rows()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the statistics of a Gaussian."""
    monkeypatch.chdir(tmp_path)
    status, text = measure(Path("statistics.safetensors"))
    assert status == 0
    assert 'sampler = { name = "dpm_solver_v3", statistics = "statistics.safetensors" }' in text
    return tmp_path


def test_with_its_statistics_the_sampler_solves_a_gaussian_and_others_do_not(here: Path):
    write()
    errors = swept()
    for steps in (5, 8):
        assert errors["dpm_solver_v3", steps] < 0.1 * min(errors["dpmpp_2m", steps], errors["unipc", steps])


def test_a_file_says_what_it_is_of(here: Path):
    found = load_statistics("statistics.safetensors")
    assert (found.origin["model"], found.origin["guidance"], found.origin["images"]) == ("gaussian", "none", "256")
    assert len(found.sigmas) == 60


def test_statistics_of_another_model_or_another_guidance_are_refused_before_the_run(here: Path):
    write("data_set")
    with pytest.raises(UsageError) as caught:
        identify(load_plan("sweep.toml"))
    assert caught.value.lines == [
        "sampler: dpm_solver_v3: statistics.safetensors has the statistics of model gaussian, not of data_set; measure "
        "those with sdlab statistics"
    ]
    measure(Path("statistics.safetensors"), "class_mixture", images=64, levels=16)
    write("class_mixture", "cfg")
    with pytest.raises(UsageError) as caught:
        identify(load_plan("sweep.toml"))
    [line] = caught.value.lines
    assert line.startswith(
        "sampler: dpm_solver_v3: statistics.safetensors has the statistics of guidance none, not of "
    )
    measure(Path("statistics.safetensors"), "class_mixture", "cfg", images=64, levels=16)
    identify(load_plan("sweep.toml"))


def test_other_content_of_the_file_is_another_identity(here: Path):
    write()
    before = identify(load_plan("sweep.toml"))
    measure(Path("statistics.safetensors"), images=64)
    assert identify(load_plan("sweep.toml")) != before


def test_a_file_that_is_missing_is_a_mistake_in_the_sweep(here: Path):
    write()
    Path("statistics.safetensors").unlink()
    with pytest.raises(
        UsageError, match=r"cells\.sampler\[2\]\.statistics: cannot read statistics\.safetensors: No such"
    ):
        load_plan("sweep.toml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "mixtrue"}, "--model: unknown model 'mixtrue'"),
        ({"images": 8}, "--images must be from 32 to 100000, got 8"),
        ({"levels": 8}, "--levels must be from 16 to 1000, got 8"),
        ({"guidance": "cfg scael=2"}, "--guidance.scael: unknown option of cfg"),
        ({"model": "sd15"}, "--prompts: missing; name a set of prompts, like scenes, or a text file of them"),
        ({"out": Path("nowhere/x.safetensors")}, "cannot write nowhere/x.safetensors: no such file or directory"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: dict, message: str
):
    monkeypatch.chdir(tmp_path)
    assert measure(**{"out": Path("x.safetensors"), **options})[0] in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("error: ") and message in line for line in lines), lines
    assert not list(tmp_path.iterdir())
