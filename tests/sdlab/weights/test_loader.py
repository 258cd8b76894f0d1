"""Models and vocabularies are found, read back as written, and each fault is reported in one line."""

import json
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import pytest
import torch
import user_files
from safetensors.torch import load_file, save_file
from user_files import (
    NARROW,
    clip_vocabulary,
    hollow_checkpoint,
    random_weights,
    rest_of_checkpoint,
    shapes,
    write_with_config,
)

from sdlab.model.clip import Clip, ClipText
from sdlab.model.config import SCENES, SD15, ClipTextConfig, ClipVisionConfig, ModelConfig, UnetConfig, VaeConfig
from sdlab.model.diffusion import Unet
from sdlab.model.stable_diffusion import networks
from sdlab.model.tokenizer import END, START, Tokenizer, train_vocabulary
from sdlab.model.vae import Vae
from sdlab.system import resources
from sdlab.system.errors import RunError, UsageError
from sdlab.weights import layout_original as original
from sdlab.weights import model_loader, weights_file
from sdlab.weights.fill import fill
from sdlab.weights.locate import ModelSource, locate
from sdlab.weights.model_folder import load_part, save_config, save_part
from sdlab.weights.model_loader import load, open_model
from sdlab.weights.vocabulary import tokenizer_in, write_vocabulary

CAPTIONS = ["a red circle above a blue square", "two green triangles", "a small red square left of a big circle"] * 3
VOCAB, MERGES = train_vocabulary(CAPTIONS, 600)
CONFIG = ModelConfig(
    name="tiny",
    image_size=16,
    text=ClipTextConfig(vocab_size=len(VOCAB), context_length=12, width=16, layers=2, heads=2),
    vision=ClipVisionConfig(image_size=16, patch=8, width=16, layers=1, heads=2, projection=8),
    vae=VaeConfig(width=8, multipliers=(1, 2), residual_blocks=1, groups=4),
    unet=UnetConfig(
        width=8, multipliers=(1, 2), residual_blocks=1, attention_rates=(2,), heads=2, context_width=16, groups=4
    ),
    levels=SCENES.levels,
    prediction="v",
)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    save_config(tmp_path, CONFIG)
    write_vocabulary(tmp_path, VOCAB, MERGES)
    save_part(tmp_path / "clip.safetensors", Clip(CONFIG.text, CONFIG.vision), torch.float32)
    save_part(tmp_path / "vae.safetensors", Vae(CONFIG.vae), torch.float32)
    save_part(tmp_path / "unet.safetensors", Unet(CONFIG.unet), torch.bfloat16)
    return tmp_path


# Folders


def test_a_folder_is_loaded_ready_for_inference(folder):
    model = load(folder, dtype=torch.bfloat16)
    assert model.config == CONFIG
    assert model.clip is not None
    assert model.text is model.clip.text
    for part in (model.clip, model.vae, model.unet):
        assert not part.training
        assert not any(p.requires_grad or p.is_meta for p in part.parameters())
        assert {p.dtype for p in part.parameters()} == {torch.bfloat16}
    kernel = model.unet.down[0].residual.conv1.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    context = model.text(model.tokenizer(["a red circle"]))
    assert model.unet(torch.randn(1, *CONFIG.latent_shape), torch.tensor([5.0]), context).shape == (1, 4, 8, 8)


def test_weights_survive_the_file_exactly_or_to_its_dtype(folder):
    torch.manual_seed(0)
    Clip(CONFIG.text, CONFIG.vision)
    vae, unet = Vae(CONFIG.vae), Unet(CONFIG.unet)
    model = load(folder)
    for key, tensor in vae.state_dict().items():
        assert torch.equal(model.vae.state_dict()[key], tensor)
    for key, tensor in unet.state_dict().items():
        assert torch.equal(model.unet.state_dict()[key], tensor.to(torch.bfloat16).float())


def test_a_model_without_a_vision_tower_has_only_the_text_transformer(folder):
    save_config(folder, replace(CONFIG, vision=None))
    save_part(folder / "clip.safetensors", ClipText(CONFIG.text), torch.float32)
    model = load(folder)
    assert model.clip is None
    assert isinstance(model.text, ClipText)


def test_one_part_alone(folder):
    vae = load_part(folder / "vae.safetensors", lambda: Vae(CONFIG.vae))
    assert not vae.training
    with pytest.raises(UsageError, match=r"nothing.safetensors: no such file"):
        load_part(folder / "nothing.safetensors", lambda: Vae(CONFIG.vae))


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "clip.safetensors", "vae.safetensors", "config.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UsageError, match=name):
        load(folder)


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_a_truncated_file_is_named(folder, keep):
    path = folder / "unet.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match=r"unet.safetensors: not a complete safetensors file") as error:
        load(folder)
    assert "\n" not in str(error.value)


def spoil(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("conv_in.bias"), "tensor 'conv_in.bias' is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "unknown tensor 'extra'"),
        (
            lambda t: t.update({"conv_in.bais": t.pop("conv_in.bias")}),
            r"unknown tensor 'conv_in.bais' \(did you mean 'conv_in.bias'\?\)",
        ),
        (
            lambda t: t.update({"conv_in.bias": torch.zeros(3)}),
            r"tensor 'conv_in.bias' has shape \(3,\), but the configuration needs \(8,\)",
        ),
    ],
)
def test_a_weight_file_that_does_not_fit_is_named(folder, change, message):
    spoil(folder / "unet.safetensors", change)
    with pytest.raises(RunError, match=f"unet.safetensors: {message}"):
        load(folder)


def test_a_vocabulary_of_another_size_is_named(folder):
    save_config(folder, replace(CONFIG, text=replace(CONFIG.text, vocab_size=10)))
    with pytest.raises(UsageError, match=rf"vocab.json: has {len(VOCAB)} tokens, but text.vocab_size .* is 10"):
        load(folder)


def test_names_of_models():
    with pytest.raises(UsageError, match=r"unknown model 'scnes' \(did you mean 'scenes'\?\)"):
        load("scnes")
    with pytest.raises(UsageError, match="no/such/folder: no such file or folder"):
        load("no/such/folder")


def test_a_write_that_fails_leaves_the_old_file(folder, monkeypatch):
    path = folder / "vae.safetensors"
    before = path.read_bytes()

    def full(draft, content):
        draft.open("wb").write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match=r"cannot write .*vae.safetensors: no space left on device"):
        save_part(path, Vae(CONFIG.vae), torch.bfloat16)
    assert path.read_bytes() == before
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_original_names_must_be_complete(tmp_path):
    path, config = tmp_path / "a.safetensors", replace(NARROW, name="narrower")
    clip_vocabulary(tmp_path)
    weights = random_weights(config)
    write_with_config(path, config, weights | {"first_stage_model.decoder.extra.weight": torch.zeros(1)})
    with pytest.raises(RunError, match=r"a\.safetensors: unknown tensor 'first_stage_model\.decoder\.extra\.weight'"):
        open_model(path)
    del weights["first_stage_model.quant_conv.bias"]
    write_with_config(path, config, weights)
    with pytest.raises(RunError, match=r"a\.safetensors: tensor 'first_stage_model\.quant_conv\.bias' is missing"):
        open_model(path)


def test_an_opened_model_is_loaded_without_opening_it_again(folder, monkeypatch):
    stored = open_model(folder)
    monkeypatch.setattr(model_loader, "open_model", lambda _: pytest.fail("opened again"))
    model = load(stored, dtype=torch.bfloat16)
    assert (model.config, model.tokenizer) == (stored.config, stored.tokenizer)
    assert {p.dtype for p in model.unet.parameters()} == {torch.bfloat16}


def test_files_of_a_model(folder):
    assert {p.name for p in locate(folder).files} == {p.name for p in folder.iterdir()}


# The user's files of Stable Diffusion v1.5


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working directory without files of the user, and no data/ elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resources, "ROOT", tmp_path / "sdlab")
    monkeypatch.delenv("SDLAB_SD15", raising=False)
    monkeypatch.delenv("SDLAB_SD15_VOCAB", raising=False)
    return tmp_path


def folder_with(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(str(folder / name))
    return folder


VOCABULARY = ("vocab.json", "merges.txt")
CKPT = "v1-5-pruned-emaonly.ckpt"


def test_missing_files_are_reported_together_with_where_they_belong_and_come_from(home):
    with pytest.raises(UsageError) as error:
        locate("sd15")
    message = str(error.value)
    for word in (CKPT, "v1-5-pruned-emaonly.safetensors", *VOCABULARY, "data/", str(home / "sdlab" / "data")):
        assert word in message
    for word in ("weights of stable-diffusion-v1-5", "tokenizer", "SDLAB_SD15", "SDLAB_SD15_VOCAB", "data/README.md"):
        assert word in message
    folder_with(home / "data", "vocab.json")
    with pytest.raises(UsageError) as error:
        locate("sd15")
    assert "vocab.json not found" not in str(error.value)
    assert "merges.txt not found" in str(error.value)


def test_a_file_without_a_vocabulary_is_told_where_to_put_one_and_not_to_download_weights(home):
    folder_with(home, "model.safetensors")
    with pytest.raises(UsageError, match=r"put vocab\.json and merges\.txt") as error:
        locate(str(home / "model.safetensors"))
    assert "download" not in str(error.value)


def test_given_paths_come_before_the_variable_and_that_before_data(home, monkeypatch):
    def files(source="sd15"):
        return {path.resolve() for path in locate(source).files}

    clone, data = folder_with(home / "sdlab" / "data", CKPT, *VOCABULARY), home / "data"
    assert files() == {clone / name for name in (CKPT, *VOCABULARY)}
    folder_with(data, CKPT, *VOCABULARY)
    assert files() == {data / name for name in (CKPT, *VOCABULARY)}
    other = folder_with(home / "other", "sd.safetensors", *VOCABULARY)
    monkeypatch.setenv("SDLAB_SD15", str(other / "sd.safetensors"))
    assert files() == {other / name for name in ("sd.safetensors", *VOCABULARY)}
    words = folder_with(home / "words", *VOCABULARY)
    monkeypatch.setenv("SDLAB_SD15_VOCAB", str(words))
    assert files() == {other / "sd.safetensors", *(words / name for name in VOCABULARY)}
    mine = folder_with(home / "mine", "mine.ckpt", "v.json", "m.txt")
    source = ModelSource("sd15", weights=mine / "mine.ckpt", vocab=str(mine / "v.json"), merges=mine / "m.txt")
    assert files(source) == set(mine.iterdir())


def test_a_folder_of_models_is_searched_for_weights(home, monkeypatch):
    files = folder_with(home / "models", "v1-5-pruned.safetensors", *VOCABULARY)
    assert set(locate(files).files) == set(files.iterdir())
    monkeypatch.setenv("SDLAB_SD15", str(files))
    assert set(locate("sd15").files) == set(files.iterdir())


def test_a_given_path_that_does_not_exist_is_an_error(home, monkeypatch):
    folder_with(home / "data", CKPT, *VOCABULARY)
    with pytest.raises(UsageError, match=r"nowhere\.ckpt: no such file or folder"):
        locate(ModelSource("sd15", weights="nowhere.ckpt"))
    with pytest.raises(UsageError, match=r"nowhere\.json: no such file or folder"):
        locate(ModelSource("sd15", vocab="nowhere.json"))
    monkeypatch.setenv("SDLAB_SD15", "gone")
    with pytest.raises(UsageError, match="gone: no such file or folder"):
        locate("sd15")
    monkeypatch.setenv("SDLAB_SD15", str(folder_with(home / "empty")))
    with pytest.raises(UsageError, match=r"v1-5-pruned-emaonly\.ckpt .* not found in .*empty/"):
        locate("sd15")


def test_weights_can_be_given_only_for_sd15(home):
    with pytest.raises(UsageError, match="`weights` is only for 'sd15'"):
        locate(ModelSource("scenes", weights="x.ckpt"))


def test_the_vocabulary_beside_another_model_is_used(home, monkeypatch):
    words, beside = folder_with(home / "words", *VOCABULARY), folder_with(home / "lab", "lab.safetensors", *VOCABULARY)
    monkeypatch.setenv("SDLAB_SD15_VOCAB", str(words))
    assert set(locate("lab/lab.safetensors").files) == {path.relative_to(home) for path in beside.iterdir()}
    (beside / "merges.txt").unlink()
    assert words / "merges.txt" in locate("lab/lab.safetensors").files


def test_missing_parts_of_a_folder_in_diffusers_layout_are_named(home):
    folder_with(home / "sd" / "unet", "config.json")
    folder_with(home / "sd" / "vae", "config.json", "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(UsageError) as error:
        locate(home / "sd")
    message = str(error.value)
    for missing in (
        "text_encoder/config.json",
        "scheduler_config.json",
        "model.safetensors (or pytorch_model.bin, ",
        "sd/unet/",
        "vocab.json",
    ):
        assert missing in message
    assert "sd/vae/" not in message


def test_the_1145_entries_of_the_real_checkpoint_are_the_model(home):
    clip_vocabulary(home / "data")
    hollow_checkpoint(home / "data" / CKPT)
    model = open_model("sd15")
    assert model.config == SD15
    assert model.tokenizer(["a"]).tolist()[0][:3] == [49406, 320, 49407]
    assert {part: len(tensors) for part, tensors in model.tensors.items()} == {"clip": 196, "vae": 248, "unet": 686}


def variants():
    averages = {f"model_ema.{key.removeprefix('model.').replace('.', '')}": (1,) for key in shapes(NARROW)}
    short = "cond_stage_model.transformer."
    return {
        "bare": lambda w: w,
        "with the rest of the real file": lambda w: {"state_dict": {**w, **rest_of_checkpoint()}, "epoch": 8},
        "pruned, with averages": lambda w: {"state_dict": w | {key: torch.zeros(1) for key in averages}},
        "half": lambda w: {"state_dict": {key: tensor.half() for key, tensor in w.items()}},
        "shortened prefix": lambda w: {key.replace(short + "text_model.", short): tensor for key, tensor in w.items()},
        "parameters": lambda w: {key: torch.nn.Parameter(tensor) for key, tensor in w.items()},
    }


@pytest.mark.parametrize("variant", variants().values(), ids=variants())
def test_variants_of_checkpoints_hold_the_same_weights(tmp_path, variant):
    weights = random_weights(NARROW, torch.float16)
    torch.save(variant({key: tensor.float() for key, tensor in weights.items()}), tmp_path / "a.ckpt")
    tensors, _ = weights_file.read(tmp_path / "a.ckpt")
    found, _ = original.split(tensors, NARROW)
    for part, network in networks(NARROW).items():
        fill(network, found[part], "cpu", torch.float32)
        wanted = original.split(weights, NARROW)[0][part]
        assert network.state_dict().keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[key].float()) for key, tensor in network.state_dict().items())


# Memory: loading needs little more than the weights it leaves

WIDER = replace(  # 390 MB in float32
    SD15,
    name="wider",
    image_size=128,
    text=replace(SD15.text, width=192),
    vae=replace(SD15.vae, width=32),
    unet=replace(SD15.unet, width=96, context_width=192),
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def measure(weights, vocabulary, dtype, steps=0):
    """What tests/support/load_and_measure.py reports."""
    script = [sys.executable, Path(user_files.__file__).with_name("load_and_measure.py")]
    command = [*script, weights, vocabulary, dtype, str(steps)]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def wider(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wider")
    clip_vocabulary(folder)
    write_with_config(folder / "wider.safetensors", WIDER, random_weights(WIDER))
    return folder / "wider.safetensors"


@linux
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.slow
def test_peak_memory_from_a_file_to_a_picture(wider, dtype):
    report = measure(wider, wider.parent, dtype, steps=2)
    assert report["weights"] > 190e6
    assert report["load_peak"] <= 1.15 * report["weights"]
    assert report["load_peak"] >= 0.95 * report["weights"]  # the weights are held, not mapped: the file may go
    assert (report["height"], report["width"], report["finite"]) == (128, 128, True)


@linux
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_round_trip_at_full_size(tmp_path):
    """Random weights under exactly the names of the real file, 4.27 GB: written, loaded, sampled and decoded."""
    clip_vocabulary(tmp_path)
    start = perf_counter()
    subprocess.run([sys.executable, Path(user_files.__file__), tmp_path / CKPT], check=True)
    print(f"\nwritten in {perf_counter() - start:.1f} s: {(tmp_path / CKPT).stat().st_size:,} bytes")
    for dtype in ("bfloat16", "float32"):
        report = measure(tmp_path / CKPT, tmp_path, dtype, steps=2)
        print(
            dtype,
            {key: round(value, 1) if value < 1e6 else f"{value / 2**30:.2f} GiB" for key, value in report.items()},
        )
        assert report["load_peak"] <= 1.15 * report["weights"]
        assert report["peak"] < 16 * 2**30
        assert (report["height"], report["width"], report["finite"]) == (512, 512, True)


# Vocabularies


def test_a_trained_vocabulary_has_the_layout_of_clips():
    words = list(VOCAB)
    assert list(VOCAB.values()) == list(range(len(VOCAB)))
    assert words[0] == "!"
    assert all(len(word) == 1 for word in words[:256])
    assert words[256:512] == [word + "</w>" for word in words[:256]]
    assert words[-2:] == [START, END]
    assert all(left + right in VOCAB for left, right in MERGES)
    assert train_vocabulary(CAPTIONS, 600) == (VOCAB, MERGES)


@pytest.mark.parametrize("size", [514, 520])
def test_a_vocabulary_is_no_larger_than_asked(size):
    assert len(train_vocabulary(CAPTIONS, size)[0]) == size


def test_a_vocabulary_needs_room_for_the_bytes():
    with pytest.raises(ValueError, match="size must be at least 514, got 513"):
        train_vocabulary(CAPTIONS, 513)


def test_common_words_become_one_token():
    tokens = Tokenizer(VOCAB, MERGES, 12)(["a RED \n circle"])[0].tolist()
    start, end = VOCAB[START], VOCAB[END]
    assert tokens == [start, VOCAB["a</w>"], VOCAB["red</w>"], VOCAB["circle</w>"]] + [end] * 8


@pytest.mark.parametrize("text", ["ünï 日本 🎉", "e\u0301", "a#b c's 12"])
def test_any_text_can_be_encoded(text):
    tokenizer = Tokenizer(VOCAB, MERGES, 64)
    spaceless = unicodedata.normalize("NFC", text).replace(" ", "")
    assert tokenizer.decode(tokenizer([text])[0].tolist()).replace(" ", "") == spaceless


def test_long_prompts_are_cut_and_keep_the_end_token():
    tokenizer = Tokenizer(VOCAB, MERGES, 6)
    tokens = tokenizer(["a red circle above a blue square", ""])
    assert tokens.shape == (2, 6)
    assert tokens[0, -1] == tokenizer.end
    assert tokens[0, -2] == VOCAB["above</w>"]
    assert tokens[1].tolist() == [tokenizer.start] + [tokenizer.end] * 5
    assert tokenizer.cut("a red circle above a  Blue square") == "a  Blue square"
    assert tokenizer.cut("a red circle above") == ""


def test_vocabulary_files_are_read_back(tmp_path):
    write_vocabulary(tmp_path, VOCAB, MERGES)
    again = tokenizer_in(tmp_path, CONFIG.text)
    assert torch.equal(again(CAPTIONS), Tokenizer(VOCAB, MERGES, 12)(CAPTIONS))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("vocab.json", "{", "vocab.json: not JSON"),
        ("vocab.json", json.dumps({"a": 0, "b": 7}), "vocab.json: must map each token to its id, 0 to 1 once each"),
        ("merges.txt", "#version: 0.2\na b\nabc\n", "merges.txt: line 3 must be two symbols"),
        ("merges.txt", "", "merges.txt: no merge makes '.*', which is in .*vocab.json; the file is incomplete"),
        ("vocab.json", json.dumps({START: 0, END: 1}), "do not match"),
    ],
)
def test_broken_vocabulary_files_are_named(tmp_path, file, text, message):
    write_vocabulary(tmp_path, VOCAB, MERGES)
    (tmp_path / file).write_text(text)
    with pytest.raises(UsageError, match=message):
        tokenizer_in(tmp_path, CONFIG.text)
