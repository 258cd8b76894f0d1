"""Model folders and vocabularies: what is written is read back, and every fault is named in one line."""

import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdlab.errors import RunError, UsageError
from sdlab.model.clip import Clip, ClipText
from sdlab.model.config import SCENES, ClipTextConfig, ClipVisionConfig, ModelConfig, UnetConfig, VaeConfig
from sdlab.model.diffusion import Unet
from sdlab.model.model_loader import (
    available_models,
    load,
    load_original,
    load_part,
    model_files,
    save_config,
    save_part,
)
from sdlab.model.tokenizer import END, START, Tokenizer, train_vocabulary, write_vocabulary
from sdlab.model.vae import Vae

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


def test_a_model_without_a_vision_tower_holds_the_text_transformer_alone(folder):
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
    with pytest.raises(RunError, match=r"unet.safetensors: not a whole safetensors file") as error:
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
            r"tensor 'conv_in.bias' has shape \(3,\), the configuration asks for \(8,\)",
        ),
    ],
)
def test_a_weight_file_that_does_not_fit_is_named(folder, change, message):
    spoil(folder / "unet.safetensors", change)
    with pytest.raises(RunError, match=f"unet.safetensors: {message}"):
        load(folder)


def test_a_vocabulary_of_another_size_is_named(folder):
    save_config(folder, replace(CONFIG, text=replace(CONFIG.text, vocab_size=10)))
    with pytest.raises(UsageError, match=rf"vocab.json: holds {len(VOCAB)} tokens, but text.vocab_size .* is 10"):
        load(folder)


def test_names_of_models():
    assert set(available_models()) == {"scenes", "sd15"}
    with pytest.raises(UsageError, match=r"unknown model 'scnes' \(did you mean 'scenes'\?\)"):
        load("scnes")
    with pytest.raises(UsageError, match=r"v1-5-pruned-emaonly.ckpt, data/vocab.json, data/merges.txt"):
        load("sd15")
    with pytest.raises(UsageError, match="no/such/folder: no such folder"):
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


def test_original_names_must_be_complete():
    with pytest.raises(RunError, match=r"checkpoint: unknown key 'lora.weight'"):
        load_original({"lora.weight": torch.zeros(1)}, CONFIG, device="meta")
    with pytest.raises(RunError, match=r"checkpoint, clip: tensor '.*' is missing"):
        load_original({"betas": torch.zeros(1)}, CONFIG, device="meta")


def test_files_of_a_model(folder):
    assert {p.name for p in model_files(folder)} == {p.name for p in folder.iterdir()}


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
    again = Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt", 12)
    assert torch.equal(again(CAPTIONS), Tokenizer(VOCAB, MERGES, 12)(CAPTIONS))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("vocab.json", "{", "vocab.json: not JSON"),
        ("vocab.json", json.dumps({"a": 0, "b": 7}), "vocab.json: must map each token to its id, 0 to 1 once each"),
        ("merges.txt", "#version: 0.2\na b\nabc\n", "merges.txt: line 3 must be two symbols"),
        ("merges.txt", "#version: 0.2\nq zzz\n", "do not belong together"),
    ],
)
def test_broken_vocabulary_files_are_named(tmp_path, file, text, message):
    write_vocabulary(tmp_path, VOCAB, MERGES)
    (tmp_path / file).write_text(text)
    with pytest.raises(UsageError, match=message):
        Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt", 12)
