"""Recipes: one file trains all stages, every mistake is found before the first one, and finished stages are skipped."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file
from training import QUIET, TINY

from sdlab.commands.train import command
from sdlab.model.clip import Clip
from sdlab.model.config import ModelConfig
from sdlab.model.diffusion import Unet
from sdlab.model.vae import Vae
from sdlab.system.errors import UsageError
from sdlab.system.files import make_folder
from sdlab.train import checkpoint, finished, run, run_all
from sdlab.train.config_file import load_part, load_recipe
from sdlab.train.preflight import prepare
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
            f"warning: unet was trained with another {files} than {model} has now; "
            f"delete {tmp_path}/out/unet to train it again"
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


def test_an_interrupted_stage_does_not_continue_on_other_inputs(tmp_path: Path):
    path = finished_model(tmp_path)
    config = load_part("unet", path).config
    checkpoint.write(config, {}, 1, 0.0)
    assert checkpoint.resume(config, {}) == (1, 0.0)
    changed(tmp_path / "model/vae.safetensors", "decoder.conv_out.weight")
    with pytest.raises(UsageError) as error:
        checkpoint.resume(config, {})
    assert str(error.value) == (
        f"{config.out}/checkpoint.pt was trained with another vae.safetensors than {tmp_path}/model has now; "
        "give `out` another folder or delete it"
    )


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
    assert found == [f"{tmp_path}/pictures: has no pictures; give a folder of pictures with captions, or tar shards"]
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
    "vae_f4": ("vae", 2800, 16, 2e-3, 100, 0.995, {"model": "out/f4", "kl": 3e-5}),
    "vae": ("vae", 2000, 16, 1e-3, 100, 0.995, {"start": Path("out/f4/vae.safetensors"), "kl": 1e-4}),
    "evaluator": ("evaluator", 2000, 64, 2e-3, 100, 0.995, {}),
    "text": ("text", 2500, 128, 1e-3, 100, 0.995, {}),
    "unet": ("unet", 9400, 64, 1e-3, 200, 0.999, {"cache": 40000, "focus": 0.68}),
    "clip": ("clip", 2000, 64, 1e-3, 200, 0.998, {}),
}
PORTRAITS = {
    "vae": ("vae", 2500, 16, 2e-3, 100, 0.995, {"kl": 3e-5, "precision": "float32"}),
    "text": ("text", 1500, 64, 1e-3, 100, 0.995, {"precision": "float32"}),
    "clip": ("clip", 3000, 128, 1e-3, 200, 0.998, {"complete_captions": 0.5}),
    "evaluator": ("evaluator", 3000, 128, 2e-3, 200, 0.998, {}),
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
        ("scenes", "out", {"model": "data/scenes"}, SCENES),
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
