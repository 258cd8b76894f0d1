"""Single files of Stable Diffusion 1.x, 2.x and XL: the numbers of the folder, and one line for what cannot be loaded.

The files have the names of the original training code, from a mapping that is independent of the conversion.
"""

from __future__ import annotations

import io
import pickle
import shlex
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import pytest
import single_files
import torch
from PIL import Image
from references import unpack_vocabulary
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner
from user_files import KEYS

import samplers
from sdlab import guidance
from sdlab.backends.base import Mistakes
from sdlab.backends.diffusers.load_file import check_weights
from sdlab.backends.diffusers.single_file import FileOptions, SingleFile, read_single_file
from sdlab.backends.registry import open_model
from sdlab.commands.app import app
from sdlab.commands.sweep import sweep
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.sweep.plan import load_plan
from sdlab.sweep.store import Store
from sdlab.system.errors import RunError
from sdlab.weights import weights_file
from sdlab.weights.recognise import CONVERTED
from sdlab.weights.stored_tensor import StoredTensor, dense

Weights = dict[str, Tensor]
PROMPTS = ["a red circle, 4K!", "ein Hund im Park"]
UNET, VAE = "model.diffusion_model.", "first_stage_model."
ROUNDING = 1e-13  # of float64, in the order of sums of a matrix product


class Case(NamedTuple):
    """A pipeline, what its scheduler predicts, and the options of its file."""

    make: Callable[..., Any]
    scheduler: dict[str, Any]
    options: dict[str, Any]


CASES = {
    "v1": Case(single_files.version_1, {}, {}),
    "v2": Case(single_files.version_2, {"prediction_type": "v_prediction"}, {}),
    "xl": Case(single_files.xl, {}, {}),
}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with CLIP's vocabulary."""
    return unpack_vocabulary(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="module")
def made(vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Weights]]:
    """The folder of a case, and the tensors of its single file in float32."""

    @lru_cache
    def of(case: str) -> tuple[Path, Weights]:
        folder = tmp_path_factory.mktemp("pipeline")
        pipe = CASES[case].make(vocabulary, **CASES[case].scheduler).to(torch.float32)
        pipe.save_pretrained(folder)
        return folder, single_files.written(pipe)

    return of


@pytest.fixture
def here(vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with CLIP's vocabulary."""
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).symlink_to(vocabulary / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(name: str, options: dict[str, Any]) -> list[Tensor]:
    """Contexts, samples, pictures and latents of a model in float64."""
    opened = open_model(name, {"size": 32, **options}, Path())
    assert opened.check("cpu", compile=False) == []
    model = opened.load("cpu", torch.float64, compile=False)
    cond, uncond = model.contexts(PROMPTS, "blurry")
    sigmas = samplers.grid("trailing", steps=2, levels=model.levels)
    drawn = model.sample(cond, uncond, samplers.make("euler"), sigmas, guidance.make("cfg", scale=4.0), [1, 2])
    pictures = model.decode(drawn)
    assert pictures is not None
    latents = model.encode_image(torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32))
    return [cond, uncond, drawn.double(), pictures.double(), latents.double()]


def same(found: list[Tensor], wanted: list[Tensor]) -> None:
    for one, other in zip(found[:2], wanted[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=ROUNDING * float(other.abs().max()))
    for one, other in zip(found[2:], wanted[2:], strict=True):  # float32
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6 * float(other.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_a_file_gives_the_numbers_of_the_folder(made: Any, here: Path, case: str):
    folder, weights = made(case)
    save_file(weights, "model.safetensors")
    same(results("diffusers:model.safetensors", CASES[case].options), results(f"diffusers:{folder}", {}))


def test_a_checkpoint_is_read_without_executing_its_pickle(made: Any, here: Path):
    class Evil:
        def __reduce__(self) -> Any:
            return (Path("executed").touch, ())

    _, weights = made("v2")
    torch.save({"state_dict": weights, "hyper_parameters": Evil()}, "model.ckpt", pickle_module=pickle)
    save_file(weights, "model.safetensors")
    same(results("diffusers:model.ckpt", {}), results("diffusers:model.safetensors", {}))
    assert not Path("executed").exists()


def other_names(weights: Weights) -> Weights:
    """Version 2 as later training code and tools that convert back from diffusers write it."""
    changes = {
        "cond_stage_model.model.": "conditioner.embedders.0.model.",
        ".attn_1.q.": ".attn_1.to_q.",
        ".attn_1.k.": ".attn_1.to_k.",
        ".attn_1.v.": ".attn_1.to_v.",
        ".attn_1.proj_out.": ".attn_1.to_out.0.",
        ".attn_1.norm.": ".attn_1.group_norm.",
    }
    found = Weights()
    for name, tensor in weights.items():
        for theirs, other in changes.items():
            name = name.replace(theirs, other)
        found[f"module.{name}"] = tensor[:, :, 0, 0] if ".attn_1." in name and tensor.dim() == 4 else tensor
    return found


def test_the_names_of_other_tools_are_read(made: Any, here: Path):
    _, weights = made("v2")
    save_file(weights, "usual.safetensors")
    save_file(other_names(weights) | {"model_ema.decay": torch.ones(())}, "other.safetensors")
    same(results("diffusers:other.safetensors", {}), results("diffusers:usual.safetensors", {}))


# Configurations of real sizes


def of_shapes(shapes: dict[str, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch, options: Any = None) -> SingleFile:
    """A file with tensors of these shapes, without its bytes."""
    stored = {name: StoredTensor(Path("x"), 0, s, dense(s), torch.float16) for name, s in shapes.items()}
    monkeypatch.setattr(weights_file, "read", lambda path: (stored, {}))
    return read_single_file(Path("model.safetensors"), options or FileOptions())


def test_the_real_file_of_version_1_fits(here: Path, monkeypatch: pytest.MonkeyPatch):
    file = of_shapes({name: tuple(shape) for name, (shape, _) in KEYS.items()}, monkeypatch)
    assert file.config("unet", "block_out_channels") == [320, 640, 1280, 1280]
    assert file.config("unet", "cross_attention_dim") == 768
    assert file.config("text_encoder", "num_attention_heads") == 12
    check_weights(file)


# Published: unet/config.json, vae/config.json and text_encoder_2/config.json of stable-diffusion-xl-base-1.0.
XL = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


# Published: unet/config.json and text_encoder/config.json of stable-diffusion-2-1.
V2 = {
    "sample_size": 96,
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}


def true_shapes(unet: dict[str, Any], *texts: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of a single file with the VAE of all Stable Diffusion models, on the meta device."""
    vae = diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2,
    )  # fmt: skip
    pipe = single_files.Networks(diffusers.UNet2DConditionModel(**unet), vae, *texts)
    return {name: tuple(tensor.shape) for name, tensor in single_files.written(pipe).items()}


def test_the_true_sizes_of_version_2_are_found(here: Path, monkeypatch: pytest.MonkeyPatch):
    with torch.device("meta"):
        shapes = true_shapes(V2, single_files.clip(1024, 23, act="gelu", inner=4096))
    file = of_shapes(shapes, monkeypatch)
    assert {key: file.config("unet", key) for key in V2} == V2
    assert file.config("text_encoder", "num_hidden_layers") == 23  # of the 24 in the file
    assert file.config("text_encoder", "num_attention_heads") == 16
    check_weights(file)


def test_the_true_sizes_of_xl_are_found(here: Path, monkeypatch: pytest.MonkeyPatch):
    with torch.device("meta"):
        texts = [single_files.clip(768, 12, inner=3072), single_files.clip(1280, 32, 1280, "gelu", inner=5120)]
        shapes = true_shapes(XL, *texts)
    assert len(shapes) == 2514  # of the published file, without the position ids
    file = of_shapes(shapes, monkeypatch)
    assert {key: file.config("unet", key) for key in XL} == XL
    assert file.config("vae", "block_out_channels") == [128, 256, 512, 512]
    assert file.config("vae", "scaling_factor") == 0.13025
    assert file.config("text_encoder", "num_attention_heads") == 12
    assert file.config("text_encoder_2", "num_hidden_layers") == 32
    assert file.config("text_encoder_2", "num_attention_heads") == 20
    check_weights(file)


# What the U-Net predicts


def test_version_2_predicts_v_unless_something_says_otherwise(made: Any, here: Path):
    _, weights = made("v2")
    save_file(weights, "model.safetensors")
    opened = open_model("diffusers:model.safetensors", {}, Path())
    assert (opened.image_size, opened.identity["prediction"]) == (768, "v")
    assert any("assumed v" in line and 'write prediction = "eps"' in line for line in opened.notes)
    opened = open_model("diffusers:model.safetensors", {"prediction": "eps"}, Path())
    assert (opened.image_size, opened.identity["prediction"]) == (512, "eps")
    assert not any("assumed" in line for line in opened.notes)
    assert opened.label == "model.safetensors prediction=eps"
    save_file(weights, "model.safetensors", {"modelspec.prediction_type": "epsilon"})
    assert open_model("diffusers:model.safetensors", {}, Path()).identity["prediction"] == "eps"
    assert open_model("diffusers:model.safetensors", {"prediction": "v"}, Path()).identity["prediction"] == "v"


def test_markers_of_merged_files_mean_v_with_zero_terminal_snr(made: Any, here: Path):
    _, weights = made("xl")
    save_file(weights, "model.safetensors")
    usual = open_model("diffusers:model.safetensors", {}, Path())
    assert (usual.identity["prediction"], usual.image_size) == ("eps", 1024)
    assert usual.levels.sigma_max == pytest.approx(14.6, abs=0.1)
    given = open_model("diffusers:model.safetensors", {"prediction": "v", "zero_snr": True}, Path())
    save_file(weights | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, "model.safetensors")
    marked = open_model("diffusers:model.safetensors", {}, Path())
    assert marked.identity == given.identity
    assert marked.levels.sigma_max == given.levels.sigma_max == 4096
    assert "model.safetensors: its markers 'v_pred' and 'ztsnr' mean that it predicts v" in marked.notes


def faults(options: dict[str, Any], name: str = "diffusers:model.safetensors") -> list[tuple[str, str]]:
    with pytest.raises(Mistakes) as caught:
        open_model(name, options, Path())
    return list(caught.value.mistakes)


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        ({"prediction": "epsilon"}, ("prediction", "should be one of eps, v, x0, got 'epsilon'")),
        ({"zero_snr": 1}, ("zero_snr", "should be true or false, got 1")),
        (
            {"zero_snr": True},
            ("zero_snr", 'needs prediction = "v", because at pure noise a prediction of the noise says nothing'),
        ),
        ({"vocab": 3}, ("vocab", "should be a path in quotes, got 3")),
        (
            {"sise": 1},
            (
                "sise",
                "unknown option 'sise' (did you mean 'size'?); known: guidance_input, max_sequence_length, merges, "
                "null_class, prediction, size, vocab, zero_snr",
            ),
        ),
    ],
)
def test_an_option_that_does_not_fit_is_a_mistake(made: Any, here: Path, options: Any, mistake: tuple[str, str]):
    save_file(made("xl")[1], "model.safetensors")
    assert faults(options) == [mistake]


# Files that cannot be loaded

LOADED = "complete models of Stable Diffusion 1.x, 2.x and XL that draw from a text are loaded"


@pytest.mark.parametrize(
    ("case", "change", "line"),
    [
        (
            "xl",
            lambda w: {k: t for k, t in w.items() if not k.startswith(VAE)},
            f"this is a checkpoint without its VAE; {LOADED}",
        ),
        (
            "xl",
            lambda w: {k: t for k, t in w.items() if not k.startswith("conditioner.embedders.0.")},
            f"this is a checkpoint without its text_encoder; {LOADED}",
        ),
        (
            "xl",
            lambda w: w | {"edm_mean": torch.zeros(4)},
            f"this is a model of the EDM process, as its tensor 'edm_mean' says; {LOADED}",
        ),
        (
            "xl",
            lambda w: w | {f"{UNET}input_blocks.0.0.weight": torch.zeros(64, 9, 3, 3)},
            f"this is an inpainting model, whose U-Net has 9 input channels; {LOADED}",
        ),
        (
            "v2",
            lambda w: w | {f"{UNET}label_emb.0.0.weight": torch.zeros(256, 16)},
            f"this is a model that draws variations of a picture (unCLIP); {LOADED}",
        ),
        (
            "v1",
            lambda w: {"lora_unet_x.lora_up.weight": torch.zeros(1)},
            f"this is a LoRA, which is a change to a model and not a complete model; {LOADED}",
        ),
        ("v1", lambda w: {"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, f"this is Flux; {CONVERTED}"),
    ],
)
def test_another_kind_of_file_is_named(made: Any, here: Path, case: str, change: Any, line: str):
    save_file(change(made(case)[1]), "model.safetensors")
    assert faults({}) == [("", f"model.safetensors: {line}")]


KEY = f"{UNET}input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
DAMAGED: dict[str, tuple[str, Callable[[Weights], Weights], str]] = {
    "a size missing": (
        "xl",
        lambda w: {k: t for k, t in w.items() if k != f"{UNET}out.2.weight"},
        f"tensor '{UNET}out.2.weight' is missing",
    ),
    "missing": (
        "xl",
        lambda w: {k: t for k, t in w.items() if k != KEY},
        "unet: tensor 'down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight' is missing",
    ),
    "shape": (
        "xl",
        lambda w: w | {KEY: torch.zeros(128, 127)},
        rf"unet: tensor '{KEY}' has shape \(128, 127\), but the configuration needs \(128, 128\)",
    ),
    "unknown": (
        "xl",
        lambda w: w | {f"{UNET}input_blocks.4.3.weight": torch.zeros(3)},
        f"unknown tensor '{UNET}input_blocks.4.3.weight', which no network of Stable Diffusion XL has",
    ),
    "twice": (
        "v2",
        lambda w: w | {f"{VAE}encoder.mid.attn_1.to_q.bias": torch.zeros(64)},
        f"'{VAE}encoder.mid.attn_1.to_q.bias' and another tensor are both '{VAE}encoder.mid.attn_1.q.bias'; remove one",
    ),
    "sizes": (
        "v2",
        lambda w: w | {"cond_stage_model.model.token_embedding.weight": torch.zeros(49408, 65)},
        "text_encoder: tensor 'cond_stage_model.model.positional_embedding' has shape",
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_tensor_that_does_not_fit_is_reported_before_weights_are_read(made: Any, here: Path, what: str):
    case, change, line = DAMAGED[what]
    save_file(change(made(case)[1]), "model.safetensors")
    with pytest.raises(RunError, match=line) as caught:
        open_model("diffusers:model.safetensors", {}, Path()).check("cpu", compile=False)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("model.safetensors")


def test_half_a_download_is_reported(made: Any, here: Path):
    save_file(made("xl")[1], "model.safetensors")
    data = Path("model.safetensors").read_bytes()
    Path("model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(RunError, match=r"^model\.safetensors: not a complete safetensors file"):
        open_model("diffusers:model.safetensors", {}, Path())


def test_a_missing_vocabulary_is_reported_with_the_places_searched(made: Any, here: Path, vocabulary: Path):
    save_file(made("xl")[1], "model.safetensors")
    Path("vocab.json").unlink()
    name = "diffusers:model.safetensors"
    lines = open_model(name, {}, Path()).check("cpu", compile=False)
    assert lines[0].startswith(f"model {name!r}: vocab.json not found in ./ or tokenizer/ or ")
    assert lines[1].startswith(f"model {name!r}: the text encoders need CLIP's vocabulary: put vocab.json and merges.")
    given = {"vocab": str(vocabulary / "vocab.json")}
    assert open_model(name, given, Path()).check("cpu", compile=False) == []
    assert open_model(name, given, Path()).label == "model.safetensors"


def test_a_vocabulary_of_another_model_is_reported(made: Any, here: Path):
    save_file(made("xl")[1], "model.safetensors")
    folder = Path(__file__).parents[3] / "data" / "scenes"
    options = {"vocab": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}
    lines = open_model("diffusers:model.safetensors", options, Path()).check("cpu", compile=False)
    assert len(lines) == 2  # one per text encoder
    assert lines[0].endswith("but text_encoder of model.safetensors has 49408")


SWEEP = """
model = { diffusers = "model.safetensors", size = 32, prediction = "v" }
images = 2
device = "cpu"
metrics = ["contrast"]
[prompts]
list = ["a red circle", "a blue star"]
[cells]
sampler = ["euler", "dpmpp_2m"]
guidance = { name = "cfg", scale = 3.0 }
steps = 2
"""


def test_a_sweep_of_a_single_file(made: Any, here: Path):
    save_file(made("v2")[1], "model.safetensors")
    Path("sweep.toml").write_text(SWEEP, encoding="utf-8")
    assert sweep("sweep.toml", identify, ModelBench, console=Console(file=io.StringIO())) == 0
    with Store(Path("runs/sweep/results.sqlite")) as store:
        assert [row.network_passes for row in store.rows()] == [4, 4]
    assert load_plan("sweep.toml").model == "model.safetensors size=32 prediction=v"


def test_the_command_of_a_picture_draws_it_again(made: Any, here: Path):
    """With the option of the file, and with a vocabulary from elsewhere."""
    words = here / "words"
    words.mkdir()
    for name in ("vocab.json", "merges.txt"):
        Path(name).rename(words / name)
    save_file(made("xl")[1], "my model.safetensors")
    options = ["--vocab", "words/vocab.json", "--merges", "words/merges.txt", "--steps", "1", "--size", "32x32"]
    first = run("generate", "a red circle", "--model", "diffusers:my model.safetensors prediction=v", *options)[-1]
    command = run("show", first)[-1]
    again = run(*shlex.split(command)[1:])[-1]
    assert first != again
    assert Image.open(first).tobytes() == Image.open(again).tobytes()
    assert f"diffusers:{here}/my model.safetensors prediction=" in command


def run(*arguments: str) -> list[str]:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_a_file_of_sdlab_is_read_without_diffusers(here: Path, made: Any):
    save_file(made("v1")[1], "model.safetensors", {"sdlab.config": "{}"})
    assert faults({}) == [
        ("", "model.safetensors: was written by sdlab, and diffusers has no such sizes; leave out `diffusers`")
    ]


def test_a_folder_has_no_options_of_a_file(made: Any, here: Path):
    [(key, text)] = faults({"prediction": "v"}, f"diffusers:{made('v2')[0]}")
    assert key == "prediction"
    assert text == ("unknown option 'prediction'; known: guidance_input, max_sequence_length, null_class, size")


def test_without_diffusers_the_extra_is_named(made: Any, here: Path, monkeypatch: pytest.MonkeyPatch):
    save_file(made("v1")[1], "model.safetensors")
    monkeypatch.setattr("sdlab.backends.diffusers.library.find_spec", lambda name: None)
    assert open_model("diffusers:model.safetensors", {}, Path()).check("cpu", compile=False) == [
        "a diffusers model needs the package diffusers: pip install 'sdlab[diffusers]'"
    ]


def test_the_wrong_name_says_where_the_file_is_read(made: Any, here: Path):
    save_file(made("v2")[1], "model.safetensors")
    [line] = open_model("model.safetensors", {}, Path()).check("cpu", compile=False)
    assert line.endswith("; write diffusers:model.safetensors")
