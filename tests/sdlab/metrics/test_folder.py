"""Metrics of a folder of pictures, without a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_clip import tiny_clip
from torch import Tensor

from sdlab.metrics import METRICS, Batch, Meters, MetricFiles, Run, Tools
from sdlab.metrics.base import PICTURES, PROMPTS
from sdlab.metrics.folder import measure_folder
from sdlab.metrics.pictures import pictures_in
from sdlab.picture import from_bytes, to_bytes
from sdlab.system.errors import UsageError
from sdlab.worlds import scenes


def save(folder: Path, pictures: Tensor) -> Tensor:
    """Write pictures as PNGs; they are returned as they are read back."""
    folder.mkdir()
    pixels = to_bytes(pictures)
    for i, picture in enumerate(pixels.numpy()):
        Image.fromarray(picture).save(folder / f"{i:03}.png")
    return from_bytes(pixels)


def captioned(n: int) -> tuple[Tensor, list[str]]:
    generator = torch.Generator().manual_seed(4)
    world = scenes.sample(n, generator)
    return scenes.render(world), scenes.describe(world, generator)


def test_hidden_files_and_folders_are_not_pictures(folder: Path):
    for name in ("._000.png", ".ipynb_checkpoints/000-checkpoint.png", "more/._a.png", "more/.thumbnails/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(4000))
    (folder / "a folder.png").mkdir()
    visible = [folder / f"{i:03}.png" for i in range(6)]
    assert pictures_in(folder) == visible
    (folder / "more" / "a.PNG").write_bytes(visible[0].read_bytes())
    assert pictures_in(folder) == [*visible, folder / "more" / "a.PNG"]
    assert measure_folder(folder, ["psnr"], inputs=folder)["psnr"].per_image is not None


def test_a_hidden_folder_may_be_given_itself(folder: Path):
    hidden = folder.rename(folder.with_name(".made"))
    assert len(pictures_in(hidden)) == 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "made", captioned(6)[0])
    return tmp_path / "made"


@pytest.mark.slow
def test_a_folder_is_measured_like_the_pictures_of_a_sweep(tmp_path: Path):
    pictures, prompts = captioned(70)
    read = save(tmp_path / "made", pictures)
    names = ["fid", "kid", "prompt_accuracy"]
    found = measure_folder(tmp_path / "made", names, prompts=prompts)
    measurement = Meters([METRICS[name] for name in names], Tools(size=(64, 64))).start(Run(70))
    measurement.update(Batch(range(70), read, prompts))
    assert found.keys() == set(names)
    for name, expected in measurement.results().items():
        assert found[name].value == pytest.approx(expected.value, rel=1e-6), name
        assert found[name].stderr == pytest.approx(expected.stderr, rel=1e-6), name
    assert found["prompt_accuracy"].value > 0.99
    assert found["prompt_accuracy"].per_image is not None
    assert found["prompt_accuracy"].per_image.shape == (70,)


def test_pictures_are_compared_with_those_of_the_other_folder(tmp_path: Path):
    pictures = captioned(4)[0]
    save(tmp_path / "made", pictures)
    save(tmp_path / "same", pictures)
    save(tmp_path / "moved", pictures.roll(1, 0))
    same = measure_folder(tmp_path / "made", ["psnr", "ssim"], inputs=tmp_path / "same")
    assert (same["psnr"].value, same["ssim"].value) == (100, pytest.approx(1, abs=1e-3))
    assert measure_folder(tmp_path / "made", ["psnr"], inputs=tmp_path / "moved")["psnr"].value < 25


def test_the_clip_score_of_a_folder_is_that_of_the_clip_that_is_given(folder: Path, tmp_path: Path):
    tiny_clip(tmp_path / "clip")
    prompts = captioned(6)[1]
    found = measure_folder(folder, ["clip_score"], prompts=prompts, files=MetricFiles(clip=str(tmp_path / "clip")))
    assert found["clip_score"].per_image is not None
    assert found["clip_score"].per_image.shape == (6,)
    swapped = measure_folder(
        folder, ["clip_score"], prompts=prompts[::-1], files=MetricFiles(clip=str(tmp_path / "clip"))
    )
    assert swapped["clip_score"].value != found["clip_score"].value


def test_every_metric_of_pictures_and_prompts_is_measured_or_reports_what_is_missing(folder: Path):
    names = [metric.name for metric in METRICS.values() if metric.needs <= PICTURES | PROMPTS]
    with pytest.raises(UsageError) as raised:
        measure_folder(folder, names, prompts=captioned(6)[1])
    assert str(raised.value).splitlines() == [
        f"metrics: cmmd, clip_score: needs a CLIP with a vision tower, which {folder} lacks; name a folder with "
        "OpenAI's CLIP as clip in [metric_files]",
        "metrics: inception_score: needs Inception's class probabilities; name its weights as inception in "
        "[metric_files]",
    ]


def test_a_metric_that_needs_a_sweep_is_refused_for_a_folder(folder: Path, tmp_path: Path):
    def refusal(*metrics: str, of: Path = folder, prompts: list[str] | None = None, inputs: Path | None = None) -> str:
        with pytest.raises(UsageError) as raised:
            measure_folder(of, metrics, prompts=prompts, inputs=inputs)
        return str(raised.value)

    assert refusal("fidd").startswith("unknown metric 'fidd' (did you mean 'fid'?); known: changes_made, ")
    assert refusal("prompt_accuracy") == f"metrics: prompt_accuracy: not possible, because {folder} has no prompts"
    assert refusal("reference_error", "w2") == (
        f"metrics: reference_error, w2: not possible, because {folder} is not a sweep"
    )
    assert refusal("prompt_accuracy", prompts=["a red star"]) == (
        f"{folder}: has 6 pictures for 1 prompts; give one per picture"
    )
    assert "the prompt 'a cat' states nothing about the scenes world" in refusal(
        "prompt_accuracy", prompts=["a cat"] * 6
    )
    save(tmp_path / "large", torch.zeros(5, 3, 80, 96))
    assert refusal("psnr", inputs=tmp_path / "large") == (
        f"{tmp_path}/large: has 5 of 80 × 96, but {folder} has 6 of 64 × 64; number and size should match"
    )
    assert refusal("fid", of=tmp_path / "large").startswith(
        f"metrics: fid: the lab evaluator reads pictures of 64 × 64 pixels, but those of {tmp_path}/large are 80 × 96;"
    )
    Image.new("RGB", (64, 80)).save(folder / "tall.png")
    assert refusal("fid") == (
        f"{folder}/tall.png: is 80 × 64, and 000.png is 64 × 64; the pictures of a folder should have one size"
    )
    (folder / "bad.png").write_text("dear diary")
    assert refusal("fid").startswith(f"{folder}/bad.png: is not a picture")
    assert refusal("fid", of=tmp_path / "none") == f"{tmp_path}/none: is not a folder; give a folder of pictures"
    (tmp_path / "empty").mkdir()
    assert refusal("fid", of=tmp_path / "empty") == f"{tmp_path}/empty: has no pictures"


def test_a_rotated_picture_has_the_size_of_its_upright_form(tmp_path: Path):
    (tmp_path / "made").mkdir()
    upright, lying = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (48, 64), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / "made" / "1.png")
    lying.save(tmp_path / "made" / "2.png", exif=exif)
    assert measure_folder(tmp_path / "made", ["psnr"], inputs=tmp_path / "made")["psnr"].value == 100
