"""The command line, run on the lab model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from lab_model import lab_pipeline
from PIL import Image

import samplers
import sdlab as package
from sdlab import commands, guidance, plugins
from sdlab.backends.exact import MODELS
from sdlab.cli import _status
from sdlab.metrics import METRICS

ROOT = Path(__file__).parents[2]
PROMPT = "a large red circle left of a large blue square on a white background"


def sdlab(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sdlab.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "COLUMNS": "140", **environment},
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """The same in this process, in an empty folder: faster, where nothing depends on a process of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        status = _status([*arguments])
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess([*arguments], status, out, err)

    return run


@pytest.mark.parametrize("command", [[], *([name] for name in commands.NAMES)])
def test_help_is_everywhere_and_ends_with_an_example(command: list[str], here):
    done = here(*command, "--help")
    assert done.returncode == 0
    assert "sdlab" in done.stdout.strip().rpartition("\n\n")[2]


def test_the_version_is_that_of_the_package(tmp_path: Path):
    assert sdlab("--version", cwd=tmp_path).stdout == f"sdlab {package.__version__}\n"


def test_help_imports_nothing_heavy():
    heavy = {"torch", "numpy", "scipy", "matplotlib", "pydantic", "PIL"}
    code = f"import sys, sdlab.commands.app; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("samplers", samplers.SAMPLERS),
        ("grids", samplers.GRIDS),
        ("guidance", guidance.GUIDANCE),
        ("metrics", METRICS),
        ("models", ["scenes", "portraits", "sd15", *MODELS]),
    ],
)
def test_list_names_everything_with_a_description(what: str, names: list[str], here):
    lines = here("list", what).stdout.splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(names)
    assert all(len(line.split()) > 3 for line in lines)


def test_list_names_a_custom_model_without_a_description(here):
    plugins.MODELS["undescribed"] = lambda: None
    assert "undescribed" in [line.strip() for line in here("list", "models").stdout.splitlines()]


def test_list_describes_one_entry(here):
    out = here("list", "guidance", "cfg_interval").stdout
    assert out.startswith("Classifier-free guidance for sigma_low < σ ≤ sigma_high")
    assert "arXiv:2404.07724" in out
    assert "\n    sigma_low = 0.28\n" in out
    assert "\n    interval = not used\n" in out
    assert out.endswith("\nSource: sdlab/guidance/cfg_interval.py\n")
    wrong = here("list", "guidance", "cgf")
    assert (wrong.returncode, wrong.stderr.partition(";")[0]) == (
        2,
        "error: unknown guidance 'cgf' (did you mean 'cfg'?)",
    )
    wrong = here("list", "metrics", "fid")
    assert (wrong.returncode, wrong.stderr) == (
        2, "error: sdlab list metrics: takes no name; metrics have no options to show\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--steps", "ten", "--steps: must be a whole number, got 'ten'"),
        ("--cfg", "1,5", "--cfg: must be a number, got '1,5'"),
        ("-n", "1.5", "-n: must be a whole number, got '1.5'"),
        ("--seed", "9" * 5000, f"--seed: must be a smaller whole number, got '{'9' * 199}…"),
    ],
)
def test_a_value_that_is_no_number_is_shown(option: str, value: str, message: str, here):
    done = here("generate", "x", option, value)
    line = f"error: sdlab generate: {message}; see sdlab generate --help\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_generate_writes_pictures_with_their_parameters_and_replaces_none(tmp_path: Path, here):
    arguments = ["generate", PROMPT, "--steps", "4", "--seed", "7", "-n", "2", "--out", "pictures"]
    first, second = here(*arguments), here(*arguments)
    assert first.returncode == second.returncode == 0, first.stderr
    paths = [tmp_path / line for done in (first, second) for line in done.stdout.splitlines()]
    assert len(set(paths)) == 4
    pictures = [Image.open(path) for path in paths]
    assert all(picture.size == (64, 64) for picture in pictures)
    stored = json.loads(pictures[1].text["sdlab"])
    assert (stored["prompt"], stored["seed"], stored["steps"], stored["sampler"]) == (PROMPT, 8, 4, "dpmpp_2m")
    assert np.array_equal(np.asarray(pictures[0]), np.asarray(pictures[2]))  # the same command, the same picture


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampler", "dpmpp2m"], "unknown sampler 'dpmpp2m' (did you mean 'dpmpp_2m'?)"),
        (["--grid", "karas"], "unknown grid 'karas' (did you mean 'karras'?)"),
        (["--steps", "0"], "steps"),
        (["--steps", "2000", "--grid", "trailing"], "2000"),
        (["--cfg", "-1"], "-1"),
        (["-n", "0"], "-n must be from 1 to 1000000, got 0"),
        (["--seed", "-3"], "--seed must be from 0 to 4611686018427387903, got -3"),
        (["--dtype", "int8"], "--dtype must be one of auto, float32, bfloat16, float16, got 'int8'"),
        (["--device", "quantum"], '--device: should be "auto", "cpu"'),
        (["--model", "scnes"], "unknown model 'scnes' (did you mean 'scenes'?)"),
    ],
)
def test_a_mistake_in_an_option_is_one_line(options: list[str], message: str, tmp_path: Path, here):
    done = here("generate", PROMPT, *options)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_files_of_a_model_are_named_at_once(here):
    done = here("generate", PROMPT, "--model", "sd15")
    assert done.returncode == 2
    assert all(line.startswith("error: model 'sd15': ") for line in done.stderr.splitlines())
    assert all(name in done.stderr for name in ("v1-5-pruned-emaonly.ckpt", "vocab.json", "merges.txt", "download"))


SWEEP = """
model = "scenes"
images = 12
batch = 8
dtype = "float32"
device = "cpu"
metrics = ["fid", "kid", "clip_score", "prompt_accuracy"]
[prompts]
set = "scenes"
count = 6
[cells]
sampler = ["ddim", "euler_ancestral"]
grid = "trailing"
guidance = ["none", { name = "cfg", scale = 3.0 }]
steps = 3
"""


def test_a_sweep_from_file_to_pictures_then_from_the_store(tmp_path: Path, here, monkeypatch):
    monkeypatch.setattr("sdlab.metrics.features.REFERENCE", 128)
    (tmp_path / "mine.toml").write_text(SWEEP)
    done = here("sweep", "mine.toml")
    assert done.returncode == 0, done.stderr
    assert "prompt accuracy" in " ".join(done.stdout.split())
    run = tmp_path / "runs" / "mine"
    written = {path.name for path in run.iterdir()}
    plots = {f"{name}.png" for name in ("fid", "kid", "clip_score", "prompt_accuracy")}
    assert {"plan.json", "results.sqlite", "table.csv", "table.md", "contact_sheet.png"} | plots <= written
    rows = (run / "table.csv").read_text().splitlines()
    assert len(rows) == 5
    passes = [float(row.split(",")[rows[0].split(",").index("network_passes")]) for row in rows[1:]]
    assert passes == [3, 6, 3, 6]
    again = here("sweep", "mine.toml")
    assert again.returncode == 0
    assert "all 4 cells were done already" in again.stdout


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("images = 12", "images = 1", "metrics: fid, kid: needs at least 4 images per cell, got 1"),
        ('set = "scenes"\ncount = 6', 'list = ["a cat"]', "states nothing about the scenes world"),
        ("steps = 3", "steps = -3", "cells.steps"),
        ("steps = 3", "steps = 3000", "3000"),
        ('"ddim"', '"dimm"', "unknown sampler 'dimm' (did you mean 'ddim'?)"),
    ],
)
def test_an_impossible_metric_is_reported_before_it_is_tried(old: str, new: str, message: str, tmp_path: Path, here):
    assert old in SWEEP
    (tmp_path / "mine.toml").write_text(SWEEP.replace(old, new))
    done = here("sweep", "mine.toml")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def copy_of_the_model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (ROOT / "data" / "scenes").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_broken_weights_are_named_before_anything_runs(fault: str, tmp_path: Path, here):
    path = copy_of_the_model(tmp_path) / "unet.safetensors"
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:5000])
    (tmp_path / "mine.toml").write_text(SWEEP.replace('"scenes"', '"model"', 1))
    done = here("sweep", "mine.toml")
    assert done.returncode == (2 if fault == "missing" else 1)
    reported = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in reported)
    assert len(reported) == (2 if fault == "missing" else 1)  # what is not there, and what a model folder holds
    assert "unet.safetensors" in reported[0]


def test_nan_from_a_model_fails_its_cells_and_the_exit_status_says_so(tmp_path: Path, here):
    from sdlab.model.diffusion import Unet
    from sdlab.weights.model_folder import load_part, read_config, save_part

    folder = copy_of_the_model(tmp_path)
    unet = load_part(folder / "unet.safetensors", lambda: Unet(read_config(folder).unet))
    unet.conv_out.bias.fill_(float("nan"))
    save_part(folder / "unet.safetensors", unet)
    (tmp_path / "mine.toml").write_text(
        SWEEP.replace('"scenes"', '"model"', 1)
        .replace('"fid", "kid", ', "")  # whose reference pictures take time
        .replace("images = 12", "images = 4")
    )
    done = here("sweep", "mine.toml")
    assert done.returncode == 1
    assert "4 of 4 cells failed" in done.stdout
    assert "NaN" in done.stdout


def test_a_picture_depends_on_its_seed_alone():
    pipeline = lab_pipeline()
    context, uncond = pipeline.encode([PROMPT]), pipeline.encode([""])
    rule, strategy = samplers.make("euler_ancestral"), guidance.make("cfg", scale=3.0)
    sigmas = samplers.grid("trailing", steps=4, levels=pipeline.levels)

    def draw(seeds: list[int]) -> torch.Tensor:
        n = len(seeds)
        contexts = context.expand(n, -1, -1), uncond.expand(n, -1, -1)
        return pipeline.decode(pipeline.sample(*contexts, rule, sigmas, strategy, seeds))

    together = draw([3, 1, 4, 15])
    alone = torch.cat([draw([seed]) for seed in (3, 1, 4, 15)])
    # Convolutions of other batch sizes round differently; a PNG has steps of 2/255.
    assert (together - alone).abs().max() <= 2.1 / 255


@pytest.mark.slow
def test_a_wheel_works_outside_the_clone(tmp_path: Path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, timeout=500)
    (wheel,) = tmp_path.glob("*.whl")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(site)
    elsewhere.mkdir()
    where = sdlab("sweep", "experiments/cfg_vs_steps.toml", "--dry-run", cwd=elsewhere, PYTHONPATH=str(site))
    assert where.returncode == 0, where.stderr
    assert "27 cells" in where.stdout
    done = sdlab("generate", PROMPT, "--steps", "2", cwd=elsewhere, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    code = "import sdlab; print(sdlab.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    out = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, env=environment)
    assert out.stdout.startswith(str(site))


@pytest.mark.parametrize(("number", "printed"), [("0", 1), ("1", 0)])
def test_a_usage_error_is_printed_by_one_process_of_a_machine(
    number: str, printed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("LOCAL_RANK", number)  # set by torchrun
    assert _status(["train", "none.toml"]) == 2
    assert capsys.readouterr().err.count("error: none.toml: no such file") == printed
