"""Foreign models are recognised and named; Stable Diffusion v1 in all its variants is not mistaken for one."""

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from user_files import KEYS, clip_vocabulary, hollow_checkpoint

from sdlab.system.errors import RunError, SdlabError, UsageError
from sdlab.weights import recognise
from sdlab.weights.locate import ModelSource
from sdlab.weights.model_loader import load, open_model

SHAPES = {key: tuple(shape) for key, (shape, _) in KEYS.items()}
UNET = {key: shape for key, shape in SHAPES.items() if key.startswith("model.diffusion_model.")}
VAE = {key: shape for key, shape in SHAPES.items() if key.startswith("first_stage_model.")}
TEXT = {key: shape for key, shape in SHAPES.items() if key.startswith("cond_stage_model.")}
CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"
TO_KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def averages(shapes):
    """How training names the averages of the U-Net: without dots."""
    names = {key: "model_ema." + key.removeprefix("model.").replace(".", "") for key in shapes}
    return {names[key]: shape for key, shape in shapes.items()}


def without(prefix):
    return {key: shape for key, shape in SHAPES.items() if not key.startswith(prefix)}


OPEN_CLIP = {"cond_stage_model.model.transformer.resblocks.0.ln_1.weight": (1024,)}

VERSION_1 = {
    "the real file": SHAPES,
    "nothing but the networks": UNET | VAE | TEXT,
    "pruned, with averages beside the weights": SHAPES | averages(UNET),
    "with the loss of its VAE": SHAPES | {"first_stage_model.loss.logvar": (), "logvar": (1000,)},
}
FOREIGN = {
    "Stable Diffusion 2.x, whose text encoder": UNET | VAE | OPEN_CLIP,
    "Stable Diffusion 2.x, whose context has width 1024": UNET | VAE | {TO_KEY: (320, 1024)},
    "Stable Diffusion XL": UNET
    | VAE
    | {"conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": (768,)},
    "Stable Diffusion 3": {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536)},
    "Flux": {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)},
    "a LoRA, which is a change": {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (8, 320, 1, 1)},
    "a LoRA, which is a change to a": {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": (8, 320)
    },
    "a LoRA": {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight": (320, 4)},
    "a textual inversion": {"emb_params": (2, 768)},
    "a ControlNet": {"control_model.input_blocks.0.0.weight": (320, 4, 3, 3), **VAE},
    "a ControlNet;": {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3), "down_blocks.0.x": (1,)},
    "an inpainting model, whose U-Net has 9": SHAPES | {CONV_IN: (320, 9, 3, 3)},
    "an inpainting model, whose U-Net has 9 input": UNET | VAE | OPEN_CLIP | {CONV_IN: (320, 9, 3, 3)},
    "the refiner of Stable Diffusion XL": UNET
    | VAE
    | {"conditioner.embedders.0.model.ln_final.weight": (1280,), TO_KEY: (384, 1280)},
    "an instruction-following model": SHAPES | {CONV_IN: (320, 8, 3, 3)},
    "a depth-to-image model": SHAPES | {CONV_IN: (320, 5, 3, 3)},
    "a checkpoint that has only the moving averages": averages(UNET) | VAE | TEXT,
    "only a VAE": VAE,
    "only a VAE;": {key.removeprefix("first_stage_model."): shape for key, shape in VAE.items()},
    "only a VAE, from a folder": {"encoder.down_blocks.0.resnets.0.norm1.weight": (128,), "quant_conv.bias": (8,)},
    "only a U-Net": UNET,
    "only a U-Net;": {key.removeprefix("model.diffusion_model."): shape for key, shape in UNET.items()},
    "only a U-Net, from a folder": {"conv_in.weight": (320, 4, 3, 3), "mid_block.resnets.0.norm1.bias": (1280,)},
    "only a text encoder": TEXT,
    "only a text encoder, from a folder": {"text_model.encoder.layers.0.layer_norm1.bias": (768,)},
    "only a CLIP with its vision tower": {
        "vision_model.pre_layrnorm.bias": (1024,),
        "text_model.encoder.layers.0.x": (1,),
    },
    "a checkpoint without its VAE": UNET | TEXT,
    "a checkpoint without its text encoder": UNET | VAE,
    "one part of an sdlab model folder": {"conv_in.bias": (320,), "down.0.residual.norm1.weight": (320,)},
}


@pytest.mark.parametrize("shapes", VERSION_1.values(), ids=VERSION_1)
def test_version_1_is_not_mistaken_for_anything_else(shapes):
    assert recognise.foreign(shapes) is None


@pytest.mark.parametrize(("what", "shapes"), FOREIGN.items(), ids=FOREIGN)
def test_foreign_models_are_named(what, shapes):
    assert recognise.foreign(shapes) is not None
    assert f"{recognise.foreign(shapes)};".startswith(what)


@pytest.mark.parametrize("what", FOREIGN)
def test_single_files_of_other_families_say_how_to_use_them(what: str):
    advice = recognise.advice(str(recognise.foreign(FOREIGN[what])), Path("my.ckpt"))
    if what.startswith(("Stable Diffusion 2", "Stable Diffusion XL")):
        assert advice == "write diffusers:my.ckpt"
    elif what in ("Stable Diffusion 3", "Flux"):
        assert advice.endswith("save_pretrained), and write diffusers:FOLDER")
    else:
        assert advice == recognise.LOADED


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline"])
def test_a_folder_of_another_family_is_sent_to_diffusers(tmp_path: Path, name: str):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(UsageError) as caught:
        open_model(str(tmp_path))
    wanted = f"{tmp_path}: this is a {name}, which is sampled through diffusers; write diffusers:{tmp_path}"
    assert caught.value.lines == [wanted]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"in_channels": 4, "cross_attention_dim": 768}, None),
        ({"in_channels": 9, "cross_attention_dim": 768}, "an inpainting model"),
        ({"in_channels": 8, "out_channels": 4}, "an instruction-following model"),
        ({"in_channels": 8, "out_channels": 8}, None),  # latents of eight channels
        ({"in_channels": 4, "cross_attention_dim": 1024}, "Stable Diffusion 2.x"),
        ({"in_channels": 9, "cross_attention_dim": 1024}, "Stable Diffusion 2.x"),
        ({"in_channels": 4, "cross_attention_dim": 2048}, "Stable Diffusion XL"),
        ({"in_channels": 4, "cross_attention_dim": [768, 1024]}, None),
    ],
)
def test_a_unet_is_recognised_by_its_settings(settings, what):
    assert (recognise.unet_settings(settings) or "None").startswith(str(what))


# Whole files


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>", "a web page"),
        (b"\n  <html></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:cc6cb271\nsize 4265380512\n", "a git-lfs pointer"),
        (b"GGUF" + bytes(100), "a GGUF file"),
        (b"\x1f\x8b" + bytes(100), "a gzip archive"),
        (pickle.dumps({"state_dict": {}}), "a bare pickle"),
        (b"Invalid username or password.", "not a PyTorch checkpoint or a safetensors file"),
        (b"RIFF" + bytes(range(100)), "not a PyTorch checkpoint"),
    ],
)
def test_files_of_other_formats_are_named(tmp_path, name, content, what):
    clip_vocabulary(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=f"{name}: this is {what}") as error:
        load(tmp_path / name)
    assert "\n" not in str(error.value)


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(UsageError, match=r"model\.ckpt: this is an empty file"):
        recognise.container(tmp_path / "model.ckpt")


def test_the_message_on_an_old_checkpoint_says_how_to_convert_it(tmp_path):
    torch.save({"x": torch.zeros(3)}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(
        UsageError, match=r"old\.ckpt: this is a checkpoint in the format of PyTorch before 1\.6; load it"
    ):
        recognise.container(tmp_path / "old.ckpt")


@pytest.mark.parametrize("name", ["model.bin", "model.safetensors", "model"])
def test_the_content_decides_not_the_name(tmp_path, name):
    torch.save({"x": torch.zeros(3)}, tmp_path / name)
    assert recognise.container(tmp_path / name) == "zip"
    save_file({"x": torch.zeros(3)}, tmp_path / name)
    assert recognise.container(tmp_path / name) == "safetensors"


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_an_incomplete_download_is_reported(tmp_path, name, share):
    clip_vocabulary(tmp_path)
    if name.endswith("ckpt"):
        hollow_checkpoint(tmp_path / name)
    else:
        save_file({key: torch.zeros(1) for key in SHAPES}, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(RunError, match=r"truncated|not a complete safetensors file") as error:
        load(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_the_message_of_a_foreign_file_names_it_and_the_supported_models(tmp_path):
    clip_vocabulary(tmp_path)
    save_file(
        {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(4, 4)}, tmp_path / "style.ckpt"
    )
    loaded = "sdlab loads complete Stable Diffusion v1 models (v1.4, v1.5): text encoder, VAE and U-Net"
    with pytest.raises(UsageError, match=rf"style\.ckpt: this is a LoRA, .*; {re.escape(loaded)}$"):
        load(ModelSource("sd15", weights=tmp_path / "style.ckpt"))


def test_the_message_of_a_single_file_of_sdxl_says_how_to_use_it(tmp_path: Path):
    clip_vocabulary(tmp_path)
    save_file({"conditioner.embedders.1.model.positional_embedding": torch.zeros(4, 4)}, tmp_path / "xl.safetensors")
    with pytest.raises(UsageError) as caught:
        open_model(str(tmp_path / "xl.safetensors"))
    file = tmp_path / "xl.safetensors"
    assert caught.value.lines == [f"{file}: this is Stable Diffusion XL; write diffusers:{file}"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(CONV_IN), f"tensor '{CONV_IN}' is missing"),
        (
            lambda s: s.update({CONV_IN: torch.zeros(320, 4, 1, 1)}),
            rf"tensor '{CONV_IN}' has shape \(320, 4, 1, 1\), but the configuration needs \(320, 4, 3, 3\)",
        ),
        (
            lambda s: s.update({CONV_IN + "s": s.pop(CONV_IN)}),
            r"unknown tensor 'model.diffusion_model.input_blocks.0.0.weights' \(did you mean '.*0.0.weight'\?\)",
        ),
    ],
)
def test_a_checkpoint_that_is_almost_version_1_is_refused(tmp_path, change, message):
    clip_vocabulary(tmp_path)
    state = {key: torch.zeros(()).expand(shape) for key, shape in SHAPES.items()}
    change(state)
    torch.save(state, tmp_path / "merge.ckpt")
    with pytest.raises(SdlabError, match=rf"merge\.ckpt: {message}"):
        open_model(tmp_path / "merge.ckpt")


def test_folders_of_other_models_are_named(tmp_path):
    settings = {"in_channels": 9, "cross_attention_dim": 768}
    for path in ("unet", "vae", "text_encoder", "scheduler", "tokenizer"):
        (tmp_path / path).mkdir()
    for path in ("vae", "text_encoder"):
        (tmp_path / path / "config.json").write_text("{}")
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{}")
    (tmp_path / "unet" / "config.json").write_text(json.dumps(settings))
    (tmp_path / "text_encoder" / "model.safetensors").touch()
    for part in ("unet", "vae"):
        (tmp_path / part / "diffusion_pytorch_model.safetensors").touch()
    clip_vocabulary(tmp_path / "tokenizer")
    with pytest.raises(UsageError, match=r"unet/config\.json: this is an inpainting model"):
        load(tmp_path)
