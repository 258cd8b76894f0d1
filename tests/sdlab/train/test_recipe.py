"""Recipes: one file trains all stages, every mistake is found before the first one, and finished stages are skipped."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file
from training import QUIET, TINY

from sdlab.commands.train import command
from sdlab.model.clip import Clip
from sdlab.model.config import ModelConfig
from sdlab.model.diffusion import Unet
from sdlab.model.vae import Vae
from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import make_folder
from sdlab.train import checkpoint, finished, run, run_all
from sdlab.train.config_file import load_part, load_recipe
from sdlab.train.preflight import prepare
from sdlab.train.stages import STAGES
from sdlab.weights.model_folder import read_config, save_config, save_part

SHORT = "steps = 3\nbatch = 2\nlr = 1e-2\n"


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def network(config: ModelConfig = TINY) -> str:
    return "[network]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in asdict(config).items())


def recipe(folder: Path, stages: str, top: str = "", net: str | None = None) -> Path:
    path = folder / "recipe.toml"
    shared = f'model = "{folder}/model"\nout = "{folder}/out"\nprecision = "float32"\n{top}'
    path.write_text(f"{shared}\n{network() if net is None else net}\n{stages}")
    return path


ALL = f"[vae]\n{SHORT}[text]\n{SHORT}[unet]\ncache = 4\n{SHORT}"


def trained(path: Path, console: Console = QUIET) -> list[str]:
    return [name for name, _ in run_all(path, console)]


def complaints(path: Path) -> list[str]:
    with pytest.raises(UsageError) as error:
        trained(path)
    assert not (path.parent / "out").exists()
    return [line.removeprefix(f"{path}: ") for line in str(error.value).splitlines()]


@pytest.mark.slow
def test_all_stages_are_trained_in_order_and_only_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = recipe(tmp_path, ALL)
    assert trained(path) == ["vae", "text", "unet"]
    assert {file.name for file in (tmp_path / "model").glob("*.safetensors")} == {
        "vae.safetensors", "clip.safetensors", "unet.safetensors",
    }  # fmt: skip
    before = (tmp_path / "model/unet.safetensors").stat().st_mtime_ns
    assert trained(path, Console(width=200)) == []
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: finished before, see {tmp_path}/out/{name}; skipped" for name in ("vae", "text", "unet")
    ]
    assert (tmp_path / "model/unet.safetensors").stat().st_mtime_ns == before
    path.write_text(path.read_text().replace("[unet]\ncache = 4\nsteps = 3", "[unet]\ncache = 4\nsteps = 5"))
    assert trained(path) == ["unet"]  # is prolonged
    (tmp_path / "model/vae.safetensors").unlink()
    assert trained(path) == ["vae"]
    path.write_text(
        path.read_text().replace('precision = "float32"', 'precision = "float32"\nthreads = 1\npreview_every = 2')
    )
    assert trained(path) == []


@pytest.mark.slow
def test_one_stage_can_be_trained_alone(tmp_path: Path):
    path = recipe(tmp_path, ALL)
    assert "psnr_db" in run("vae", path, QUIET)
    assert trained(path) == ["text", "unet"]
    with pytest.raises(UsageError, match=r"recipe\.toml: unknown stage 'clip'"):
        run("clip", path, QUIET)
    (tmp_path / "model/clip.safetensors").unlink()
    with pytest.raises(UsageError, match=r"\[unet\]: needs .*/clip\.safetensors, which is missing"):
        run("unet", path, QUIET)


def finished_model(folder: Path) -> Path:
    """A recipe whose stages are finished: the networks are untrained."""
    path = recipe(folder, ALL)
    save_config(folder / "model", TINY)
    save_part(folder / "model/clip.safetensors", Clip(TINY.text, TINY.vision))
    for name, network in (("vae", Vae(TINY.vae)), ("unet", Unet(TINY.unet))):
        save_part(folder / f"model/{name}.safetensors", network)
    for part in load_recipe(path):
        make_folder(part.config.out)
        finished.record(part.config, {})
    return path


def changed(file: Path, name: str) -> None:
    """Change one tensor of a weight file."""
    tensors = load_file(file)
    tensors[name] = tensors[name] + 1
    save_file(tensors, file)


def test_a_finished_stage_whose_inputs_have_changed_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, model = finished_model(tmp_path), tmp_path / "model"
    skipped = [f"{name}: finished before, see {tmp_path}/out/{name}; skipped" for name in ("vae", "text", "unet")]

    def said() -> list[str]:
        assert trained(path, Console(width=200)) == []
        return capsys.readouterr().out.splitlines()

    def warning(files: str) -> str:
        return (
            f"warning: {model}: {files} changed after unet was trained; delete {tmp_path}/out/unet to train unet again"
        )

    assert said() == skipped
    changed(model / "clip.safetensors", "vision.patch.weight")  # as the clip stage does after the U-Net
    assert said() == skipped
    changed(model / "vae.safetensors", "decoder.conv_out.weight")
    assert said() == [*skipped, warning("vae.safetensors")]
    changed(model / "clip.safetensors", "text.token.weight")
    assert said() == [*skipped, warning("clip.safetensors and vae.safetensors")]
    record = tmp_path / "out/unet/finished.json"
    old = {key: value for key, value in json.loads(record.read_text()).items() if key != "inputs"}
    record.write_text(json.dumps(old))  # of a version that did not write them
    assert said() == skipped


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"config": ' + b"9" * 5000 + b"}"])
def test_a_damaged_record_is_that_of_a_run_that_is_not_finished(content: bytes, tmp_path: Path):
    path = finished_model(tmp_path)
    (part, *_) = load_recipe(path)
    assert finished.exists(part.config)
    (tmp_path / "out/vae/finished.json").write_bytes(content)
    assert not finished.exists(part.config)


def test_an_interrupted_stage_does_not_continue_on_other_inputs(tmp_path: Path):
    path = finished_model(tmp_path)
    config = load_part("unet", path).config
    checkpoint.write(config, {}, 1, 0.0)
    assert checkpoint.resume(config, {}) == (1, 0.0)
    changed(tmp_path / "model/vae.safetensors", "decoder.conv_out.weight")
    with pytest.raises(UsageError) as error:
        checkpoint.resume(config, {})
    assert str(error.value) == (
        f"{tmp_path}/model: vae.safetensors changed after {config.out}/checkpoint.pt was written; "
        "give `out` another folder or delete it"
    )


def test_no_stage_replaces_the_weights_that_a_later_one_has_to_continue_with(tmp_path: Path):
    path = finished_model(tmp_path)
    unet = load_part("unet", path).config
    checkpoint.write(unet, {}, 1, 0.0)
    before = (tmp_path / "model/vae.safetensors").read_bytes()
    recipe(tmp_path, ALL.replace("steps = 3", "steps = 4"))
    with pytest.raises(UsageError) as error:
        trained(path)
    assert str(error.value).splitlines() == [
        f"{path}: [unet]: cannot continue from {unet.out}/checkpoint.pt if [{name}], whose `steps` changed, replaces "
        f"{file}; change it in [unet] alone, or give [unet] another `out`"
        for name, file in (("text", "clip.safetensors"), ("vae", "vae.safetensors"))
    ]
    assert (tmp_path / "model/vae.safetensors").read_bytes() == before
    for stages in (ALL.replace("cache = 4", "cache = 4\nsnapshot_every = 1"), ALL):  # of the U-Net alone; none
        prepare(recipe(tmp_path, stages), load_recipe(path))
    (unet.out / "checkpoint.pt").unlink()  # all stages are trained again
    recipe(tmp_path, ALL.replace("steps = 3", "steps = 4"))
    prepare(path, load_recipe(path))


def test_all_mistakes_of_all_stages_are_reported_before_the_first(tmp_path: Path):
    stages = f"[vae]\nstep = 3\n{SHORT}[text]\nbatch = 2\nlr = 1\n[unte]\n{SHORT}"
    assert complaints(recipe(tmp_path, stages, "wrold = 3\n")) == [
        "[unte]: unknown stage 'unte' (did you mean 'unet'?); known: clip, evaluator, text, unet, vae",
        "unknown key `wrold` (did you mean 'world'?)",
        *[line for line in complaints(recipe(tmp_path, stages)) if line.startswith("[vae]: unknown key `step`")],
        "[text]: `steps` is missing; add it",
    ]


def test_a_key_of_a_world_and_data_do_not_mix(tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    found = complaints(recipe(tmp_path, f"[text]\n{SHORT}[vae]\n{SHORT}", f'data = "{tmp_path}/pictures"\n'))
    assert found == ["[text]: the text stage needs the ground truth of a world; remove it or `data`"]
    found = complaints(recipe(tmp_path, f"[vae]\n{SHORT}", f'data = "{tmp_path}/pictures"\n'))
    formats = "PNG, JPEG, WebP, BMP or TIFF"
    empty = f"{tmp_path}/pictures: has no pictures; give a folder of pictures ({formats}) with captions, or tar shards"
    assert found == [f"[vae]: `data`: {empty}"]
    found = complaints(recipe(tmp_path, f"[vae]\n{SHORT}", 'data = "nowhere"\n'))
    assert found == ["[vae]: `data`: nowhere: no such file or directory"]
    assert not (tmp_path / "model").exists()


def test_what_a_stage_needs_must_exist_or_come_first(tmp_path: Path):
    model = tmp_path / "model"
    assert complaints(recipe(tmp_path, f"[unet]\n{SHORT}[vae]\n{SHORT}")) == [
        f"[unet]: needs {model}/{name}, which is missing; train it in an earlier table"
        for name in ("clip.safetensors", "vae.safetensors")
    ]
    found = complaints(recipe(tmp_path, f'[vae]\nstart = "{tmp_path}/old.safetensors"\n{SHORT}'))
    assert found == [f"[vae]: needs {tmp_path}/old.safetensors, which is missing; train it in an earlier table"]


def test_the_network_is_written_once_and_then_compared(tmp_path: Path):
    path = recipe(tmp_path, f"[vae]\n{SHORT}")
    trained(path)
    found = read_config(tmp_path / "model")
    assert replace(found, vae=TINY.vae) == TINY
    assert found.vae.scale != TINY.vae.scale
    assert trained(path) == []  # the scale that the stage found is no difference
    recipe(tmp_path, f"[vae]\n{SHORT}", net=network(replace(TINY, unet=replace(TINY.unet, width=16))))
    with pytest.raises(UsageError) as error:
        trained(path)
    assert str(error.value) == (
        f"{path}: [network]: unet.width differs from {tmp_path}/model/config.json; use another model folder"
    )
    recipe(tmp_path, f"[vae]\n{SHORT}", net=network() + "imagesize = 64\n")
    with pytest.raises(UsageError, match=r"\[network\]: imagesize: unknown key \(did you mean 'image_size'\?\)"):
        trained(path)


def test_a_model_of_another_size_than_the_worlds_pictures_is_refused_before_training(tmp_path: Path):
    assert TINY.vision is not None
    small = replace(TINY, image_size=32, vision=replace(TINY.vision, image_size=32))
    fault = f"`image_size` of {tmp_path}/model is 32, but pictures of scenes are 64 × 64; change it, or train on `data`"
    assert complaints(recipe(tmp_path, ALL, net=network(small))) == [fault]
    assert not (tmp_path / "model").exists()
    save_config(tmp_path / "model", small)
    alone = tmp_path / "vae.toml"
    alone.write_text(f'model = "{tmp_path}/model"\nout = "{tmp_path}/out"\n{SHORT}')
    with pytest.raises(UsageError, match="^" + re.escape(fault)):
        run("vae", alone, QUIET)


@pytest.mark.parametrize(
    ("stage", "key", "what"),
    [
        ("text", "", "the text stage"),
        ("clip", "", "the clip stage"),
        ("vae", "perceptual = {weight = 1.0}\n", "`perceptual`"),
        ("unet", "alignment = {}\n", "`alignment`"),
        ("unet", "text_alignment = {weight = 1.0}\n", "`text_alignment`"),
    ],
)
def test_a_vision_encoder_that_the_network_lacks_is_missed_before_training(
    tmp_path: Path, stage: str, key: str, what: str
):
    """The evaluator's table comes first, and would have been trained."""
    model = tmp_path / "model"
    save_config(model, replace(TINY, vision=None))
    for file in ("clip", "vae"):
        (model / f"{file}.safetensors").touch()
    found = complaints(recipe(tmp_path, f"[evaluator]\n{SHORT}[{stage}]\n{key}{SHORT}", net=""))
    assert found == [f"{model}/config.json: `vision` is null; {what} needs a vision encoder"]


def test_a_vision_encoder_is_trained_before_its_features_are_used(tmp_path: Path):
    """The text stage also writes one, with random weights."""
    tables = {
        "vae": f"[vae]\nperceptual = {{weight = 1.0}}\n{SHORT}",
        "unet": f"[unet]\nalignment = {{}}\n{SHORT}",
        "clip": f"[clip]\n{SHORT}",
    }
    late = recipe(tmp_path, f"[text]\n{SHORT}{tables['vae']}{tables['unet']}{tables['clip']}")
    line = "needs a trained vision encoder; train the clip stage in an earlier table"
    assert complaints(late) == [f"[vae]: {line}", f"[unet]: {line}"]
    good = recipe(tmp_path, f"[text]\n{SHORT}{tables['clip']}{tables['vae']}{tables['unet']}")
    prepare(good, load_recipe(good))


def test_the_features_of_an_untrained_vision_encoder_are_refused(tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    assert TINY.vision is not None
    save_part(tmp_path / "model/clip.safetensors", Clip(TINY.text, TINY.vision))
    path = recipe(tmp_path, f"[vae]\nperceptual = {{weight = 1.0}}\n{SHORT}")
    with pytest.raises(UsageError, match=r"^`perceptual` needs a vision encoder, but that of .* is untrained; run the"):
        trained(path)


def test_a_prediction_that_does_not_fit_is_refused_before_training(tmp_path: Path):
    unet = f'[unet]\nprediction = "edm"\n{SHORT}'
    (fault,) = complaints(recipe(tmp_path, f"[text]\n{SHORT}[vae]\n{SHORT}{unet}"))
    assert fault.startswith("`prediction` and `noise_schedule`: ")
    first = f'[first]\nstage = "unet"\nnoise_schedule = "edm"\nprediction = "edm"\n{SHORT}'  # changes it for the second
    path = recipe(tmp_path, f"[text]\n{SHORT}[vae]\n{SHORT}{first}{unet}")
    prepare(path, load_recipe(path))


def test_what_is_not_there_is_missed_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    weights = f'[vae]\nperceptual = {{weight = 1.0, weights = "{tmp_path}/none"}}\n{SHORT}'
    (fault,) = complaints(recipe(tmp_path, f"[text]\n{SHORT}{weights}"))
    assert fault.startswith(f"`perceptual.weights`: {tmp_path}/none: is not a folder; it should contain")
    monkeypatch.setitem(sys.modules, "wandb", None)
    found = complaints(recipe(tmp_path, f'[text]\n{SHORT}[vae]\nlog = "wandb"\n{SHORT}'))
    assert found == ["`wandb` needs a package that is not installed; run: pip install 'sdlab[wandb]'"]


def test_sheets_of_pictures_are_for_the_stages_that_have_some(tmp_path: Path):
    parts = load_recipe(recipe(tmp_path, ALL, "preview_every = 2\n"))
    assert {part.name: part.config.previews() for part in parts} == {"vae": 2, "text": None, "unet": 2}
    found = complaints(recipe(tmp_path, f"[text]\npreview_every = 2\n{SHORT}"))
    assert found == ["[text]: `preview_every` belongs to the vae and unet stages; remove it here"]


def test_a_stage_starts_from_the_part_of_a_model_folder(tmp_path: Path):
    other = recipe(tmp_path, f"[vae]\n{SHORT}")
    trained(other)
    table = f'[vae]\nmodel = "{tmp_path}/new"\nstart = "{tmp_path}/model"\n{SHORT}[vae.network]\n'
    stage = recipe(tmp_path, table + network().removeprefix("[network]\n"), 'seed = 1\nworld = "portraits"\n', net="")
    config = load_part("vae", stage).config
    assert config.start_file() == tmp_path / "model/vae.safetensors"
    assert config.model_copy(update={"start": Path("data/scenes")}).start_file().name == "vae.safetensors"
    save_config(tmp_path / "new", TINY)
    prepare(stage, load_recipe(stage))


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", "not a complete safetensors file"),
        (b"\x08\0\0\0\0\0\0\0" + b"{" * 8, "not a complete safetensors file: its header is not JSON"),
    ],
)
def test_damaged_weights_to_start_from_are_found_before_the_stages_before(content: bytes, wrong: str, tmp_path: Path):
    (tmp_path / "old.safetensors").write_bytes(content)
    path = recipe(tmp_path, ALL + f'start = "{tmp_path}/old.safetensors"\n')
    with pytest.raises(RunError, match=rf"recipe\.toml: \[unet\]: `start`: .*/old\.safetensors: {wrong}"):
        trained(path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", list(STAGES))
def test_weights_of_another_network_are_found_before_the_stages_before(stage: str, tmp_path: Path):
    save_part(tmp_path / "old.safetensors", Unet(TINY.unet) if stage != "unet" else Vae(TINY.vae))
    start = f'start = "{tmp_path}/old.safetensors"\n'
    tables = ALL + start if stage == "unet" else f'[evaluator]\n{SHORT}[last]\nstage = "{stage}"\n{SHORT}{start}'
    save_config(tmp_path / "model", TINY)
    save_part(tmp_path / "model/clip.safetensors", Clip(TINY.text, TINY.vision))
    (found,) = complaints(recipe(tmp_path, tables))
    name = "unet" if stage == "unet" else "last"
    assert found == (
        f"[{name}]: `start`: {tmp_path}/old.safetensors has no tensor whose name and shape match; "
        "give weights of this network"
    )


def test_running_out_of_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def crowded(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("sdlab.train.loop.train", crowded)
    with pytest.raises(RunError) as error:
        run("vae", recipe(tmp_path, f"[vae]\n{SHORT}"), QUIET)
    assert str(error.value) == ("out of memory; use a smaller `batch` and a larger `accumulate`, or a smaller network")


def test_a_file_of_one_stage_is_no_recipe(tmp_path: Path):
    path = tmp_path / "vae.toml"
    path.write_text(f'out = "x"\n{SHORT}[perceptual]\nweight = 1\n')
    assert load_part("vae", path).config.stage == "vae"
    with pytest.raises(UsageError, match=r"vae\.toml: is not a recipe; add a table such as \[vae\]"):
        trained(path)
    with pytest.raises(UsageError, match="give a file, or a stage and a file; got 3 arguments"):
        command(["vae", "a.toml", "b.toml"])


# The shipped recipes: the values with which the shipped models were trained.

SCENES = {
    "vae": ("vae", 6000, 64, 2e-3, 200, 0.998, {"kl": 3e-5, "precision": "float32"}),
    "text": (
        "text",
        3000,
        128,
        3e-3,
        100,
        0.99,
        {"precision": "float32", "optimizer": "muon", "weight_decay": 0.1},
    ),
    "clip": ("clip", 3000, 128, 1e-3, 200, 0.998, {}),
    "evaluator": ("evaluator", 2000, 64, 2e-3, 100, 0.995, {"complete_captions": 0.0}),
    "second_evaluator": ("evaluator", 3000, 128, 2e-3, 200, 0.998, {"second": True, "seed": 1}),
    "unet": ("unet", 4000, 512, 1e-3, 500, 0.9995, {}),
    "unet_longer": ("unet", 1500, 512, 4e-4, 50, 0.998, {"start": Path("data/scenes/unet.safetensors"), "seed": 1}),
}
PORTRAITS = {
    "vae": ("vae", 2500, 16, 2e-3, 100, 0.995, {"kl": 3e-5, "precision": "float32"}),
    "text": ("text", 1500, 64, 1e-3, 100, 0.995, {"precision": "float32"}),
    "clip": ("clip", 3000, 128, 1e-3, 200, 0.998, {"complete_captions": 0.5}),
    "evaluator": ("evaluator", 3000, 128, 2e-3, 200, 0.998, {}),
    "second_evaluator": ("evaluator", 3000, 128, 2e-3, 200, 0.998, {"second": True, "seed": 1}),
    "unet": (
        "unet",
        7500,
        256,
        1e-3,
        500,
        0.9995,
        {"complete_captions": 0.5, "save_every": 100, "snapshot_every": 500},
    ),
}


@pytest.mark.parametrize(
    ("name", "out", "shared", "expected"),
    [
        ("scenes", "out", {"model": "data/scenes", "complete_captions": 0.5}, SCENES),
        ("portraits", "out/portraits", {"model": "data/portraits", "world": "portraits"}, PORTRAITS),
    ],
)  # fmt: skip
def test_the_shipped_recipes(name: str, out: str, shared: dict[str, Any], expected: dict[str, Any]):
    parts = load_recipe(Path(f"experiments/train/{name}.toml"))
    assert [part.name for part in parts] == list(expected)
    for part in parts:
        stage, steps, batch, lr, warmup, ema, more = expected[part.name]
        given = {"steps": steps, "batch": batch, "lr": lr, "warmup": warmup, "ema": ema}
        wanted = type(part.config)(**{"out": f"{out}/{part.name}", **shared, **given, **more})
        assert (part.config.stage, part.config) == (stage, wanted)
        assert ModelConfig.from_json(json.dumps(part.network)).name == name


@pytest.mark.slow
def test_the_recipe_for_a_gpu_runs_all_its_stages_on_small_numbers(tmp_path: Path):
    """Its tables and networks are valid, and its stages run in order: on a CPU, with few and small pictures."""
    table = tomllib.loads(Path("experiments/train/gpu.toml").read_text(encoding="utf-8"))
    networks = ModelConfig.from_json(json.dumps(table["network"]))
    with torch.device("meta"):
        assert round(sum(weight.numel() for weight in Unet(networks.unet).parameters()) / 1e6) == 256  # as it says
    folder = tmp_path / "my-pictures"
    folder.mkdir()
    for i, (color, caption) in enumerate(product(["red", "green", "blue", "white"], ["plain", "bright"])):
        Image.new("RGB", (40, 40), color).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"{caption} {color}", encoding="utf-8")
    table |= {"data": str(folder), "model": str(tmp_path / "model"), "out": str(tmp_path / "out"), "device": "cpu"}
    table |= {"workers": 0, "precision": "float32", "held_out": 0.25}
    table["network"] = json.loads(replace(TINY, image_size=32, vision=replace(TINY.vision, image_size=32)).to_json())
    for name, stage in table.items():
        if isinstance(stage, dict) and name != "network":
            stage |= {"steps": 2, "batch": 2, "warmup": 1}
            stage.pop("compile", None)
            stage |= {"image_size": 16} if "image_size" in stage else {}
            stage |= {"start": stage["start"].replace("out/gpu", str(tmp_path))} if "start" in stage else {}
            stage |= {"adversarial": {**stage["adversarial"], "start": 0}} if "adversarial" in stage else {}
    path = tmp_path / "gpu.toml"
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in table.items()), encoding="utf-8")
    assert trained(path) == ["clip", "vae_small", "vae", "unet_small", "unet"]
    assert {file.name for file in (tmp_path / "model").glob("*.safetensors")} == {
        "clip.safetensors", "vae.safetensors", "unet.safetensors"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["scenes", "portraits"])
def test_the_recipe_of_a_lab_model_has_the_networks_of_the_shipped_one(name: str, tmp_path: Path):
    parts = load_recipe(Path(f"experiments/train/{name}.toml"))
    last = parts[-1]
    save_config(tmp_path, read_config(Path(f"data/{name}")))
    moved = [replace(last, config=last.config.model_copy(update={"model": str(tmp_path)}))]
    for need in moved[0].config.needs():
        (tmp_path / need.file).touch()
    prepare(Path(f"{name}.toml"), moved)  # raises for any difference
    assert ModelConfig.from_json(json.dumps(parts[0].network)).vae.factor == 4


@pytest.mark.parametrize("key", ["model", "out", "start", "data"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a\0b", r"a\x00b: a path cannot contain NUL"),
        ("~nosuchuser/x", "~nosuchuser/x: there is no such user; write the folder itself"),
        ("", "the path is empty; write . for the current folder"),
    ],
)
def test_paths_that_no_file_can_have_are_one_line(key: str, value: str, message: str, tmp_path: Path):
    keys = {"model": f"{tmp_path}/model", "out": f"{tmp_path}/out", key: value}
    path = tmp_path / "vae.toml"
    path.write_text(SHORT + "".join(f"{name} = {json.dumps(value)}\n" for name, value in keys.items()))
    with pytest.raises(UsageError) as error:
        run("vae", path, QUIET)
    assert str(error.value) == f"{path}: `{key}`: {message}"


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = recipe(tmp_path, f'[vae]\nmodel = "~/a"\n{SHORT}')
    path.write_text(path.read_text().replace(f'out = "{tmp_path}/out"', 'out = "~/b"'))
    (part,) = load_recipe(path)
    assert (part.config.model, part.config.out) == (str(tmp_path / "a"), tmp_path / "b/vae")


@pytest.mark.parametrize("value", ["5", "true", '["a"]', "nan", "2020-01-01"])
def test_a_folder_is_a_text(value: str, tmp_path: Path):
    path = recipe(tmp_path, f"[vae]\n{SHORT}")
    path.write_text(path.read_text().replace(f'out = "{tmp_path}/out"', f"out = {value}"))
    (found,) = complaints(path)
    assert found.startswith("[vae]: `out` = ")


def test_each_stage_has_a_folder_of_its_own(tmp_path: Path):
    same = f'[vae]\nout = "{tmp_path}/one"\n{SHORT}[text]\nout = "{tmp_path}/x/../one"\n{SHORT}'
    assert complaints(recipe(tmp_path, same)) == ["[text]: `out` is that of [vae]; give each stage a folder of its own"]
    for name in ("../vae", "./vae", "/vae", "", "a\\u0000", "è"):
        found, *_ = complaints(recipe(tmp_path, f'["{name}"]\nstage = "vae"\n{SHORT}'))
        assert found.endswith("]: a stage's table names its folder; use letters, digits, _ and - alone")


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ("network = [1]", "[vae]: `network` must be a table, like the `config.json` of a model folder"),
        ("network = 7", "unknown key `network`"),
        ("[network]\nname = 2020-01-01", "[network]: has a date or a time, which no `config.json` has; remove it"),
    ],
)
def test_a_network_that_is_not_one_is_one_line(net: str, message: str, tmp_path: Path):
    assert message in complaints(recipe(tmp_path, f"[vae]\n{SHORT}", net=net))
    assert not (tmp_path / "model").exists()


def test_a_configuration_that_is_a_pipe_or_without_end_is_refused(tmp_path: Path):
    (tmp_path / "model").mkdir()
    os.mkfifo(tmp_path / "model/config.json")
    with pytest.raises(UsageError, match=r"model/config\.json: is not a regular file$"):
        read_config(tmp_path / "model")
    (tmp_path / "model/config.json").unlink()
    (tmp_path / "model/config.json").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"model/config\.json: is not a regular file$"):
        read_config(tmp_path / "model")
