"""Diffusers folders in a sweep: one file from start to end, and one clear line for each thing that cannot work."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from PIL import Image
from references import unpack_vocabulary
from rich.console import Console
from safetensors.torch import load_file, save_file

from sdlab.backends.base import Mistakes
from sdlab.backends.diffusers import library
from sdlab.backends.registry import open_model
from sdlab.commands.sweep import sweep
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.sweep.plan import load_plan
from sdlab.sweep.store import Store
from sdlab.system.errors import RunError, UsageError

TOML = """
model = {{ diffusers = "{folder}" }}
images = 3
batch = 2
device = "cpu"
metrics = ["contrast"]
[prompts]
list = ["a red circle", "a blue star"]
negative = "blurry"
[cells]
sampler = ["euler", "dpmpp_2m"]
grid = ["trailing", "karras"]
guidance = ["none", {{ name = "cfg", scale = 3.0 }}, {{ name = "apg", scale = 3.0 }}]
steps = 3
"""
CLASSES = """
model = {{ diffusers = "{folder}", null_class = 3 }}
images = 4
device = "cpu"
metrics = ["contrast"]
[cells]
sampler = "euler"
guidance = {{ name = "cfg", scale = 2.0 }}
steps = 3
"""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders `sd`, `flux`, `pixart` and `pixels`."""
    place = tmp_path_factory.mktemp("originals")
    vocabulary = unpack_vocabulary(tmp_path_factory.mktemp("vocabulary"))
    tiny.filled(tiny.stable_diffusion(vocabulary)).to(torch.float32).save_pretrained(place / "sd")
    tiny.filled(tiny.flux(vocabulary, use_dynamic_shifting=True)).to(torch.float32).save_pretrained(place / "flux")
    tiny.filled(tiny.pixart(True)).to(torch.float32).save_pretrained(place / "pixart")
    tiny.filled(tiny.unet2d(4)).to(torch.float32).save_pretrained(place / "pixels")
    return place


@pytest.fixture
def here(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with copies of the folders."""
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(file: Path, **settings: Any) -> None:
    """Change settings in a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | settings), encoding="utf-8")


def write(toml: str) -> None:
    Path("sweep.toml").write_text(toml, encoding="utf-8")


def run(toml: str) -> list[Any]:
    write(toml)
    assert sweep("sweep.toml", identify, ModelBench, console=Console(file=io.StringIO())) == 0
    with Store(Path("runs/sweep/results.sqlite")) as store:
        return list(store.rows())


def test_a_sweep_of_a_text_to_image_pipeline(here: Path):
    rows = run(TOML.format(folder="sd"))
    assert len(rows) == 2 * 2 * 3
    assert sorted({row.network_passes for row in rows}) == [3, 6]
    assert len({row.metrics["contrast"] for row in rows}) == 12
    assert load_plan("sweep.toml").model == "sd"
    assert Path("runs/sweep/contact_sheet.png").exists()


def test_a_sweep_of_classes(here: Path):
    [row] = run(CLASSES.format(folder="pixels"))
    assert row.network_passes == 6


def test_a_sweep_of_a_flow(here: Path):
    """The distilled CFG scale is an option of the model and costs no pass."""
    toml = TOML.format(folder="flux").replace('flux" }', 'flux", size = 32, guidance_input = 2 }')
    rows = run(toml.replace('"karras"', '"flow"'))
    assert sorted({row.network_passes for row in rows}) == [3, 6]
    plan = load_plan("sweep.toml")
    assert plan.model == "flux size=32 guidance_input=2"
    assert plan.notes == ("the scheduler shifts time dynamically; for this size the shift is 1.596",)
    assert open_model("diffusers:flux", {}, here).image_size == 256  # 128 latents per side


def test_noise_on_a_text_with_a_mask_is_refused_before_the_run(here: Path):
    write(TOML.format(folder="pixart").replace('"none", ', '"cads", '))
    with pytest.raises(UsageError, match="has a mask in its conditions, to which no noise can be added"):
        identify(load_plan("sweep.toml"))


def test_image_to_image(here: Path):
    Image.new("RGB", (40, 40), "white").save("white.png")
    toml = TOML.format(folder="sd").replace("steps = 3", "steps = 4\nstrength = [0.5, 0.0]")
    rows = run(toml + '[image]\ninit = "white.png"\n')
    kept = {row.metrics["contrast"] for row in rows if row.network_passes == 0}
    assert len(kept) == 1  # strength 0 keeps the picture whatever the sampler


def test_the_size_is_that_of_the_configuration_unless_it_is_given(here: Path):
    assert open_model("diffusers:sd", {}, here).image_size == 32
    opened = open_model("diffusers:sd", {"size": 48}, here)
    assert (opened.image_size, opened.label) == (48, "sd size=48")
    model = opened.load("cpu", torch.float32, compile=False)
    assert model.encode_image(torch.zeros(1, 3, 48, 48)).shape == (1, 4, 24, 24)


def test_the_end_of_a_long_prompt_is_reported(here: Path):
    model = open_model("diffusers:sd", {}, here).load("cpu", torch.float32, compile=False)
    assert model.cut("short") == ""
    assert model.cut("red " * 75 + "blue star") == "blue star"


def test_a_variant_is_read_if_there_is_no_other(here: Path):
    for part in ("unet", "vae"):
        file = here / "sd" / part / "diffusion_pytorch_model.safetensors"
        file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    opened = open_model("diffusers:sd", {}, here)
    assert opened.check("cpu", compile=False) == []
    assert here / "sd/unet/diffusion_pytorch_model.fp16.safetensors" in opened.files
    opened.load("cpu", torch.float32, compile=False)


def faults(name: str, options: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    with pytest.raises(Mistakes) as caught:
        open_model(name, options, folder)
    return list(caught.value.mistakes)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"sise": 64},
            (
                "sise",
                "unknown option 'sise' (did you mean 'size'?); known: guidance_input, max_sequence_length, "
                "null_class, size",
            ),
        ),
        ({"size": "64"}, ("size", "should be a whole number, got '64'")),
        ({"size": 33}, ("size", "must be a multiple of 2, got 33; the nearest is 32")),
        ({"size": 0}, ("size", "must be from 1 to 16384, got 0")),
        ({"guidance_input": 3.5}, ("guidance_input", "is not an option of this model, which takes size")),
        ({"null_class": 3}, ("null_class", "is not an option of this model, which takes size")),
        ({"guidance_input": "high"}, ("guidance_input", "should be a number from 0 to 1000, got 'high'")),
        ({"max_sequence_length": 0}, ("max_sequence_length", "must be from 1 to 4096, got 0")),
    ],
)
def test_an_option_that_does_not_fit_is_a_mistake(here: Path, options: dict[str, Any], line: tuple[str, str]):
    assert faults("diffusers:sd", options, here) == [line]


def test_a_label_outside_the_classes_is_a_mistake(here: Path):
    why = "must be a label of the model, from 0 to 3, got 4"
    assert faults("diffusers:pixels", {"null_class": 4}, here) == [("null_class", why)]


def components(folder: Path, **changed: Any) -> None:
    change(folder / "model_index.json", **changed)


SUPPORTED = (
    "StableDiffusionPipeline, LatentConsistencyModelPipeline, StableDiffusionXLPipeline, StableDiffusion3Pipeline, "
    "FluxPipeline, PixArtAlphaPipeline, PixArtSigmaPipeline, DDPMPipeline, DDIMPipeline"
)


@pytest.mark.parametrize(
    ("spoil", "lines"),
    [
        (lambda sd: shutil.rmtree(sd), ["sd: no such folder"]),
        (lambda sd: (shutil.rmtree(sd), sd.touch()), ["sd: this is an empty file"]),
        (
            lambda sd: (sd / "model_index.json").unlink(),
            ["sd: not a diffusers pipeline, because it has no model_index.json"],
        ),
        (
            lambda sd: components(sd, _class_name="KandinskyPipeline"),
            [f"sd: 'KandinskyPipeline' is not supported; pipelines are {SUPPORTED}"],
        ),
        (
            lambda sd: components(sd, unet=["my_module", "MyUnet"], vae=[None, None], controlnet=["x", "Y"]),
            [
                "sd/model_index.json: component 'unet' is my_module.MyUnet, not diffusers.UNet2DConditionModel",
                "sd/model_index.json: component 'vae' is missing",
                "sd/model_index.json: component 'controlnet' is not one of this family of pipelines",
            ],
        ),
        (
            lambda sd: change(sd / "unet/config.json", in_channels=9),
            [
                "sd/unet/config.json: the network takes 9 channels and the VAE has 4; models for inpainting, editing "
                "or control are not supported"
            ],
        ),
        (
            lambda sd: change(sd / "unet/config.json", addition_embed_type="text_time"),
            ["sd/unet/config.json: addition_embed_type is 'text_time', and this family has None"],
        ),
        (
            lambda sd: change(sd / "unet/config.json", sample_size=None),
            [
                "sd/unet/config.json: sample_size must be a whole number above 0, got None; give the model a `size` in "
                "pixels"
            ],
        ),
        (
            lambda sd: change(sd / "scheduler/scheduler_config.json", _class_name="EDMEulerScheduler"),
            [
                "sd/scheduler/scheduler_config.json: _class_name is 'EDMEulerScheduler', a scheduler of the EDM "
                "process; sdlab loads models that were trained with a table of betas, as Stable Diffusion v1"
            ],
        ),
    ],
    ids=["no folder", "file", "no index", "family", "components", "inpainting", "conditions", "no size", "process"],
)
def test_a_folder_that_cannot_be_read_is_a_mistake(here: Path, spoil: Callable[[Path], Any], lines: list[str]):
    spoil(here / "sd")
    assert [text for _, text in faults("diffusers:sd", {}, Path())] == lines


def test_a_setting_of_another_type_is_a_mistake(here: Path):
    change(here / "sd/vae/config.json", block_out_channels=8)
    [(key, text)] = faults("diffusers:sd", {}, Path())
    assert key == ""
    assert text.startswith("diffusers:sd: a setting of the configuration is invalid: ")


def test_a_missing_tokenizer_is_reported_before_the_run(here: Path):
    shutil.rmtree(here / "sd/tokenizer")
    opened = open_model("diffusers:sd", {}, Path())
    assert opened.check("cpu", compile=False) == ["model 'diffusers:sd': sd/tokenizer: no files of a tokenizer"]


def test_pickles_are_not_read(here: Path):
    weights = here / "sd/unet/diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    assert open_model("diffusers:sd", {}, Path()).check("cpu", compile=False) == [
        "model 'diffusers:sd': sd/unet: no weights in safetensors; diffusion_pytorch_model.bin is a pickle, and only "
        "safetensors are read"
    ]


def test_no_code_of_a_folder_is_executed(here: Path):
    """Neither a pipeline beside the weights nor a class that a configuration names."""
    for name in ("pipeline.py", "StableDiffusionPipeline.py", "unet/mine.py", "text_encoder/mine.py"):
        (here / "sd" / name).write_text("raise SystemExit('executed')", encoding="utf-8")
    change(here / "sd/text_encoder/config.json", auto_map={"AutoModel": "mine.Mine"})
    change(here / "sd/unet/config.json", auto_map={"AutoModel": "mine.Mine"})
    open_model("diffusers:sd", {}, Path()).load("cpu", torch.float32, compile=False)


def test_missing_tensors_are_an_error(here: Path):
    file = here / "sd/unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_in.weight"]
    save_file(weights, file)
    opened = open_model("diffusers:sd", {}, Path())
    with pytest.raises(
        RunError, match=r"sd/unet: the weights do not fit UNet2DConditionModel: missing keys conv_in\.weight"
    ):
        opened.load("cpu", torch.float32, compile=False)


def test_a_damaged_file_is_an_error(here: Path):
    file = here / "sd/vae/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RunError, match="sd/vae: AutoencoderKL cannot be loaded: "):
        open_model("diffusers:sd", {}, Path()).load("cpu", torch.float32, compile=False)


def test_without_diffusers_the_extra_is_named(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    write(TOML.format(folder="sd"))
    with pytest.raises(UsageError) as caught:
        identify(load_plan("sweep.toml"))
    assert caught.value.lines == ["a diffusers model needs the package diffusers: pip install 'sdlab[diffusers]'"]


def test_a_strategy_that_needs_what_the_network_lacks_is_reported_before_the_run(here: Path):
    write(TOML.format(folder="sd").replace('"none", ', '"pag", '))
    with pytest.raises(UsageError, match="has no network that can be perturbed; use another strategy"):
        identify(load_plan("sweep.toml"))
    write(CLASSES.format(folder="pixels").replace(", null_class = 3", ""))
    with pytest.raises(UsageError, match='has no conditions; use "none"'):
        identify(load_plan("sweep.toml"))


def test_mistakes_are_reported_with_the_key_of_the_sweep_file(here: Path):
    write(TOML.format(folder="nowhere"))
    with pytest.raises(UsageError, match=r"sweep.toml: model: .*nowhere: no such folder"):
        load_plan("sweep.toml")
