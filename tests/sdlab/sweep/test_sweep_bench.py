"""Sweeps of the lab model, from file to values: image-to-image, galleries, and user files."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lab_model import lab_pipeline
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from sdlab.commands.sweep import sweep
from sdlab.metrics import openai_clip
from sdlab.metrics.psnr import psnr
from sdlab.picture import read_picture, to_bytes
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.sweep.prompts import picture_set
from sdlab.sweep.store import Store
from sdlab.system.resources import ROOT, find
from sdlab.weights.export import export
from sdlab.weights.model_loader import load
from sdlab.worlds import scenes

pytestmark = pytest.mark.slow

METRICS = 'metrics = ["changes_made", "prompt_accuracy", "psnr", "ssim", "feature_distance"]'
ALTERED = '[prompts]\nset = "scenes_altered"\ncount = 6'
RENDERS = '[image]\nset = "scenes"'
PHOTO = '[image]\ninit = "photo.png"\nfit = "pad"'


def toml(
    metrics: str = METRICS, prompts: str = ALTERED, image: str = RENDERS, strength: str = "strength = [0, 0.5, 1]"
) -> str:
    return f"""
model = "scenes"
images = 6
batch = 4
device = "cpu"
{metrics}
{prompts}
{image}
[cells]
sampler = "ddim"
guidance = {{ name = "cfg", scale = 3.0 }}
steps = 4
{strength}
"""


Sweep = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Run a sweep of this text, in `tmp_path`; its results are in runs/mine. Plots are tested elsewhere."""
    monkeypatch.chdir(tmp_path)
    for name in ("plots.plot_metric", "trade_off.plot_trade_off"):
        monkeypatch.setattr(f"sdlab.report.{name}", lambda path, *_: path.touch())

    def run_it(text: str, name: str = "mine", **overrides: Any) -> int:
        Path(f"{name}.toml").write_text(text, encoding="utf-8")
        return sweep(f"{name}.toml", identify, ModelBench, console=Console(file=io.StringIO()), overrides=overrides)

    return run_it


def table(name: str = "mine") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(Path("runs", name, "table.csv").read_text(encoding="utf-8"))))


def pictures(name: str = "mine") -> list[NDArray[np.uint8]]:
    """The thumbnails of each cell, in the order of the file."""
    with Store(Path("runs", name, "results.sqlite")) as store:
        keys = json.loads(Path("runs", name, "plan.json").read_text(encoding="utf-8"))["keys"]
        return [found[1] for key in keys if (found := store.thumbnails(key))]


def same_to_rounding(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> None:
    """Assert that pictures decoded in batches of different sizes are equal, but for values between two bytes.

    On some processors a convolution over a batch rounds differently from one over a single picture.
    """
    np.testing.assert_allclose(first.astype(float), second.astype(float), rtol=0, atol=1)


def photo(path: str, seed: int = 5) -> None:
    """A picture of another size than the model's."""
    Path(path).parent.mkdir(exist_ok=True)
    scene = to_bytes(scenes.render(scenes.sample(1, torch.Generator().manual_seed(seed))))[0].numpy()
    Image.fromarray(scene).resize((100, 80)).save(path)


def test_strength_leads_from_the_vaes_picture_to_that_of_the_prompt_alone(run: Sweep):
    assert run(toml()) == 0
    kept, between, ignored = table()
    assert [float(row["network_passes"]) for row in (kept, between, ignored)] == [0, 4, 8]
    for name, better in (("psnr", 1), ("ssim", 1), ("feature_distance", -1)):
        values = [better * float(row[name]) for row in (kept, between, ignored)]
        assert values == sorted(values, reverse=True), name
    assert float(kept["changes_made"]) < 0.2  # nothing has been asked of the model yet
    pipeline, inputs = lab_pipeline(), picture_set("scenes", 6)
    reconstructions = pipeline.decode(pipeline.encode_image(inputs))
    assert float(kept["psnr"]) == pytest.approx(float(psnr(reconstructions, inputs).mean()), rel=1e-3)
    assert run(toml(metrics='metrics = ["prompt_accuracy"]', image="", strength=""), "plain") == 0
    np.testing.assert_array_equal(pictures()[2], pictures("plain")[0])
    assert table("plain")[0]["prompt_accuracy"] == ignored["prompt_accuracy"]


def test_a_prompt_with_a_picture_starts_from_it_and_the_others_from_noise(run: Sweep):
    photo("photo.png")
    mixed = '[prompts]\nlist = ["a red circle", { text = "a blue star on white", image = "photo.png" }]'
    alone = '[prompts]\nlist = ["a red circle", "a blue star on white"]'
    assert run(toml("", mixed, "", "strength = 0.5")) == 0
    assert run(toml("", alone, "", ""), "alone") == 0
    [found], [noise] = pictures(), pictures("alone")
    same_to_rounding(found[[0, 2, 4]], noise[[0, 2, 4]])
    assert all(np.any(found[i] != noise[i]) for i in (1, 3, 5))
    assert float(table()[0]["network_passes"]) == 6  # the mean of 8 and 4
    assert len(list(Path("runs/mine/pictures").iterdir())) == 6


def test_one_picture_for_all_is_brought_to_size_and_kept_at_strength_0(run: Sweep):
    photo("photo.png")
    assert run(toml(image=PHOTO, strength="strength = 0")) == 0
    pipeline = lab_pipeline()
    expected = pipeline.decode(pipeline.encode_image(read_picture(Path("photo.png"), (64, 64), "pad")[None]))
    for picture in pictures()[0]:
        same_to_rounding(picture, to_bytes(expected)[0].numpy())


def test_the_words_that_a_long_prompt_loses_are_reported(run: Sweep, capsys: pytest.CaptureFixture[str]):
    prompts = f'[prompts]\nlist = ["a red circle{" on a grey background" * 30} at last", "a blue star"]'
    assert run(toml(metrics="metrics = []", prompts=prompts, image="", strength="")) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"note: the prompt 'a red circle .*' is too long for the text encoder; its end is ignored: '.* at last'", line
    )


def test_another_picture_in_the_file_is_another_sweep(run: Sweep):
    text = toml(image=PHOTO, strength="strength = 0")
    photo("photo.png", 5)
    assert run(text) == 0
    [before], [row] = pictures(), table()
    assert run(text) == 0
    assert table() == [row]
    photo("photo.png", 6)
    assert run(text) == 0
    assert np.any(pictures()[0] != before)
    assert table()[0]["key"] != row["key"]


@pytest.fixture
def refused(run: Sweep, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """The lines on stderr of a sweep that cannot begin."""

    def refuse(text: str) -> list[str]:
        assert run(text) == 2
        assert not Path("runs").exists()
        lines = capsys.readouterr().err.splitlines()
        assert all(line.startswith("error: ") for line in lines)
        return [line.removeprefix("error: ") for line in lines]

    return refuse


Refused = Callable[..., list[str]]


def test_impossible_settings_are_reported_before_a_sweep_begins(refused: Refused, tmp_path: Path):
    assert refused(toml(image=PHOTO)) == ["image: photo.png: no such file or directory"]
    Path("photo.png").write_text("dear diary")
    [line] = refused(toml(image=PHOTO))
    assert line == f"image: {tmp_path}/photo.png: is not a picture in a supported format"
    [line] = refused(toml(prompts='[prompts]\nlist = ["a red circle", "a cat"]'))
    assert "prompt_accuracy: the prompt 'a cat' states nothing about the scenes world" in line
    photo("p.png")
    half = '[prompts]\nlist = ["a red circle", { text = "a star", image = "p.png" }]'
    [line] = refused(toml(prompts=half, image=""))
    assert line.startswith("metrics: changes_made, psnr, ssim, feature_distance: not possible, because some")


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """User files with the weights of the lab model: a checkpoint in the layout of v1.5, and OpenAI's CLIP."""
    folder = tmp_path_factory.mktemp("user")
    export("scenes", "original", folder / "weights.safetensors", None)
    clip = folder / "data" / "clip-vit-large-patch14"
    clip.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(find(f"data/scenes/{name}"), folder)
        shutil.copy(find(f"data/scenes/{name}"), clip)
    model = load("scenes").clip
    assert model is not None
    state = {openai_clip._theirs(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, clip / "model.safetensors")
    words = {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
    words |= {"patch": "patch_size", "context_length": "max_position_embeddings"}
    content: dict[str, Any] = {"projection_dim": model.vision.config.projection}
    for name, part in (("text_config", model.text.config), ("vision_config", model.vision.config)):
        content[name] = {words.get(key, key): value for key, value in asdict(part).items()}
        content[name]["intermediate_size"] = 4 * part.width
    (clip / "config.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def sd15(user: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with the files in the place where `sd15` is searched for."""
    monkeypatch.setenv("SDLAB_SD15", str(user / "weights.safetensors"))
    monkeypatch.setenv("SDLAB_SD15_VOCAB", str(user))
    return user


def shipped(name: str) -> str:
    return (ROOT / "experiments" / f"{name}.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("sd15_gallery", ["nodata/scene.png: no such f", "nodata/portrait.png: no such f"]),
        ("sd15_cfg_vs_steps", ["nodata/clip-vit-large-patch14: is not a folder"]),
    ],
)
def test_without_the_users_files_the_sweeps_of_sd15_name_them_all(
    name: str, others: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SDLAB_SD15", "nowhere.ckpt")
    lines = refused(shipped(name).replace('"data/', '"nodata/'))
    for said in ("nowhere.ckpt: no such f", *others):
        assert sum(said in line for line in lines) == 1, said


def test_the_gallery_runs_unchanged_once_its_files_exist(run: Sweep, sd15: Path):
    photo("data/scene.png")
    photo("data/portrait.png", 6)
    assert run(shipped("sd15_gallery")) == 0
    [row] = table()
    assert float(row["network_passes"]) == pytest.approx((4 * 40 + 2 * 24) / 6)
    assert len(list(Path("runs/mine/pictures").iterdir())) == 6
    with Image.open("runs/mine/contact_sheet.png") as sheet:
        assert sheet.height > 2 * 112  # the inputs, and what became of them


def test_a_model_table_names_the_files_and_clip_scores_on_the_users_clip(run: Sweep, user: Path):
    files = f'weights = "{user}/weights.safetensors"\nvocab = "{user}/vocab.json"\nmerges = "{user}/merges.txt"\n'
    text = re.sub(r'name = "sd15".*\n', f'name = "sd15"\n{files}', shipped("sd15_cfg_vs_steps"))
    text = text.replace('"data/', f'"{user}/data/').replace("[5, 10, 20]", "1").replace("[5, 10, 20]", "1")
    assert run(re.sub("sampler = .*", 'sampler = "ddim"', text), images=4) == 0
    rows = table()
    assert len(rows) == 3
    assert all(0 <= float(row["clip_score"]) <= 100 for row in rows)
    assert "CLIP score (OpenAI)" in Path("runs/mine/table.md").read_text(encoding="utf-8")


def test_metrics_that_cannot_be_measured_on_sd15_are_refused_in_a_line_each(refused: Refused, sd15: Path):
    text = toml('metrics = ["clip_score"]', '[prompts]\nlist = ["a cat"]', "", "").replace('"scenes"', '"sd15"', 1)
    [line] = refused(text)
    assert line.startswith("metrics: clip_score: needs a CLIP with a vision tower")
    files = '[metric_files]\ninception = "i.pth"\nreference = "real"\nclip = "c"\n[prompts]'
    lines = refused(text.replace("[prompts]", files).replace('"clip_score"', '"clip_score", "fid"'))
    assert [line.partition(":")[0] for line in (lines[0], lines[-1])] == ["metric_files.clip", "metric_files.reference"]
    assert lines[1].startswith("metric_files.inception: i.pth: not found")
