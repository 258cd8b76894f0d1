"""`sdlab generate`, `show` and `diff` with a pipeline of diffusers."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from PIL import Image
from references import unpack_vocabulary
from rich.console import Console
from typer.testing import CliRunner

import samplers
from sdlab import guidance
from sdlab.backends.diffusers import library
from sdlab.backends.registry import open_model
from sdlab.commands import app as cli
from sdlab.commands.differing import compare, read
from sdlab.commands.inline_model import absolute_model, model_text, split_model
from sdlab.commands.sweep import sweep
from sdlab.picture import read_picture, to_bytes
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.system.errors import UsageError

PROMPT = "a red circle"
Draw = Callable[..., list[Path]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of pipelines: `sd xl` (which has a space), `flux` and `pixels`."""
    place = tmp_path_factory.mktemp("folders")
    vocabulary = unpack_vocabulary(tmp_path_factory.mktemp("vocabulary"))
    tiny.filled(tiny.stable_diffusion_xl(vocabulary)).to(torch.float32).save_pretrained(place / "sd xl")
    tiny.filled(tiny.flux(vocabulary, use_dynamic_shifting=True)).to(torch.float32).save_pretrained(place / "flux")
    tiny.filled(tiny.unet2d(4)).to(torch.float32).save_pretrained(place / "pixels")
    return place


@pytest.fixture
def draw(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    """Draws in a working directory that has the folders, and returns the paths of the pictures."""
    for folder in folders.iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)

    def drawn(*options: str, model: str = "diffusers:sd xl", steps: int = 2) -> list[Path]:
        command = ["generate", PROMPT, "--model", model, "--steps", str(steps), "--device", "cpu", *options]
        return [Path(line) for line in run(*command)]

    return drawn


def run(*arguments: str) -> list[str]:
    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout.splitlines()


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_the_picture_is_that_of_the_pipeline_in_a_sweep(draw: Draw):
    """Each with its seed and the negative prompt, at a size of its own."""
    paths = draw("-n", "2", "--seed", "5", "--negative", "blurry", "--size", "48x48", "--cfg", "3")
    model = open_model("diffusers:sd xl", {"size": 48}, Path()).load("cpu", torch.float32, compile=False)
    cond, uncond = model.contexts([PROMPT], "blurry")
    sigmas = samplers.grid("trailing", steps=2, levels=model.levels)
    for seed, path in zip((5, 6), paths, strict=True):
        strategy = guidance.make("cfg", scale=3.0)
        pictures = model.decode(model.sample(cond, uncond, samplers.make("dpmpp_2m"), sigmas, strategy, [seed]))
        assert pictures is not None
        np.testing.assert_array_equal(pixels(path), to_bytes(pictures)[0].numpy())


def test_a_picture_may_be_wider_than_high(draw: Draw):
    [path] = draw("--size", "48x32")
    assert Image.open(path).size == (48, 32)


def test_the_parameters_lead_back_to_the_picture(draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From another folder, with the options of the model and the defaults of its family."""
    [path] = draw("--size", "32x32", model="diffusers:flux guidance_input=2.5")
    stored = json.loads(Image.open(path).text["sdlab"])
    assert stored["model"] == f"diffusers:{tmp_path / 'flux'} guidance_input=2.5"
    assert stored["guidance"] == "none"  # a network that is distilled from CFG
    assert json.loads(Image.open(draw()[0]).text["sdlab"])["guidance"] == "cfg scale=5.0"
    command = shlex.split(run("show", str(path))[-1])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    [again] = run(*command[1:])
    assert Path(again).read_bytes() == (tmp_path / path).read_bytes()


def test_image_to_image(draw: Draw):
    shade = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(shade).save("in.png")
    [kept] = draw("--init-image", "in.png", "--strength", "0")
    model = open_model("diffusers:sd xl", {}, Path()).load("cpu", torch.float32, compile=False)
    expected = model.decode(model.encode_image(read_picture(Path("in.png"), (32, 32), "crop")[None]))
    assert expected is not None
    np.testing.assert_array_equal(pixels(kept), to_bytes(expected)[0].numpy())
    [ignored], [plain] = draw("--init-image", "in.png", "--strength", "1"), draw()
    np.testing.assert_array_equal(pixels(ignored), pixels(plain))


@pytest.mark.parametrize("model", ["sd xl", "flux"])
def test_an_inverted_picture_comes_back(draw: Draw, model: str):
    shade = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(shade).save("in.png")
    [back] = draw("--init-image", "in.png", "--invert", "--size", "32x32", model=f"diffusers:{model}")
    [kept] = draw("--init-image", "in.png", "--strength", "0", "--size", "32x32", model=f"diffusers:{model}")
    assert np.abs(pixels(back).astype(int) - pixels(kept).astype(int)).max() <= 1


def test_two_pictures_are_traced_to_their_settings(draw: Draw):
    [a], [b] = draw(), draw("--seed", "3", "--size", "48x32", steps=3)
    found = compare(read(a, "cpu"), read(b, "cpu"))
    assert [factor.name for factor in found.factors] == ["steps", "seed", "size"]
    assert found.notes == []
    np.testing.assert_array_equal(to_bytes(found.drawn[found.whole].pixels)[0].numpy(), pixels(b))


def test_a_cell_of_a_sweep_is_traced_too(draw: Draw, tmp_path: Path):
    Path("s.toml").write_text(
        'model = { diffusers = "sd xl", size = 48 }\nimages = 1\ndevice = "cpu"\nmetrics = ["contrast"]\n'
        f'[prompts]\nlist = ["{PROMPT}"]\n[cells]\nsampler = "dpmpp_2m"\nsteps = [2, 3]\nguidance = "none"\n'
    )
    assert sweep("s.toml", identify, ModelBench, console=Console(file=io.StringIO())) == 0
    cell = read(Path("runs/s:1"), "cpu")
    assert (cell.request.model, cell.request.size) == (f"diffusers:{tmp_path / 'sd xl'}", (48, 48))
    [path] = draw("--size", "48x48", "--guidance", "none", steps=3)
    found = compare(cell, read(path, "cpu"))
    assert [factor.name for factor in found.factors] == ["steps"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "diffusers:nowhere"}, "--model: nowhere: no such folder"),
        ({"model": "diffusers:pixels"}, "--model: diffusers:pixels draws without prompts; use it in a sweep"),
        (
            {"model": "diffusers:flux size=64"},
            "--model: the size of a picture is an option of the command; write --size",
        ),
        (
            {"model": "diffusers:flux guidance_input=high"},
            "--model: guidance_input: should be a number from 0 to 1000, got 'high'",
        ),
        (
            {"options": ("--size", "33x48")},
            "--size: both sides must be multiples of 2, got 33x48; the nearest is 32x48",
        ),
        ({"options": ("--offload",)}, "--offload is not for pipelines of diffusers; leave it out"),
        ({"options": ("--vocab", "v.json")}, "--vocab is not for pipelines of diffusers; leave it out"),
        (
            {"options": ("--guidance", "pag")},
            "--guidance: model diffusers:sd xl has no network that can be perturbed; use another strategy",
        ),
    ],
)
def test_a_mistake_is_one_line(draw: Draw, options: dict[str, Any], message: str):
    given = options.pop("options", ())
    with pytest.raises(UsageError) as caught:
        draw(*given, **options)
    assert caught.value.lines == [message]
    assert not Path("out").exists()


def test_without_diffusers_the_extra_is_named_before_anything_is_loaded(draw: Draw, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the package diffusers: pip install 'sdlab\[diffusers\]'"):
        draw()


def test_a_model_with_options_is_one_text(draw: Draw, tmp_path: Path):
    text = "diffusers:sd xl guidance_input=2.5 max_sequence_length=64"
    name, options = split_model(text)
    assert (name, options) == ("diffusers:sd xl", {"guidance_input": 2.5, "max_sequence_length": 64})
    assert model_text(name, options) == text
    assert absolute_model(text) == text.replace("sd xl", str(tmp_path / "sd xl"))
    assert split_model("my folder a=1") == ("my folder a=1", {})
