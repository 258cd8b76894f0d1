"""Configurations in diffusers layout: every setting that decides what a network computes is read or refused."""

import inspect
import json
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig
from user_files import NARROW, clip_vocabulary, random_weights, write_with_config

from sdlab.model.config import SD15
from sdlab.system.errors import UsageError
from sdlab.weights import layout_diffusers as layout
from sdlab.weights.export import export
from sdlab.weights.json_file import read_object
from sdlab.weights.model_loader import load, open_model

# Settings that change no tensor and no value of our networks, or do so only with another setting, which is refused.
HARMLESS = {
    "text_encoder": {
        "architectures", "attention_dropout", "bos_token_id", "chunk_size_feed_forward", "dtype", "eos_token_id",
        "id2label", "initializer_factor", "initializer_range", "is_encoder_decoder", "label2id", "output_hidden_states",
        "pad_token_id", "problem_type", "projection_dim", "return_dict", "transformers_version",
    },
    "vae": {"force_upcast", "sample_size"},
    "unet": {
        "addition_embed_type_num_heads", "addition_time_embed_dim", "dropout", "mid_block_only_cross_attention",
        "projection_class_embeddings_input_dim", "upcast_attention",
    },
}  # fmt: skip
CLASSES = {"text_encoder": CLIPTextConfig, "vae": AutoencoderKL, "unet": UNet2DConditionModel}


@pytest.fixture
def folder(tmp_path):
    """The configurations of a model."""
    layout.write_config(tmp_path, replace(NARROW, name=tmp_path.name))
    return tmp_path


def change(folder, component, edit):
    path = folder / layout.CONFIGS[component]
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))


def refused(folder, message):
    with pytest.raises(UsageError, match=message) as error:
        layout.read_config(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def parameters(component):
    found = inspect.signature(CLASSES[component]).parameters
    return {name: parameter.default for name, parameter in found.items()}


@pytest.mark.parametrize("component", CLASSES)
def test_every_setting_of_the_other_packages_is_known(component):
    known = layout.settings(SD15)[component].keys()
    assert set(parameters(component)) - known == HARMLESS[component]


@pytest.mark.parametrize("component", CLASSES)
def test_an_omitted_setting_has_the_default_of_the_other_packages(component):
    values = layout.settings(SD15)[component] | layout.DEFAULTS[component]
    theirs = {key: list(v) if isinstance(v, tuple) else v for key, v in parameters(component).items()}
    # Not a size of the network: the size of pictures, of which theirs has no default.
    assert {key: theirs[key] for key in values if key != "sample_size"} == {
        key: value for key, value in values.items() if key != "sample_size"
    }
    assert not layout.DEFAULTS[component].items() <= layout.settings(SD15)[component].items()


def test_sizes_that_are_left_out_are_not_those_of_version_1(folder):
    for component, lost, message in (
        ("text_encoder", "hidden_size", r"ModelConfig.unet.context_width must equal text.width = 512, got 32"),
        ("unet", "cross_attention_dim", r"ModelConfig.unet.context_width must equal text.width = 32, got 1280"),
        ("vae", "block_out_channels", "down_block_types is"),
    ):
        layout.write_config(folder, NARROW)
        change(folder, component, lambda values, lost=lost: {k: v for k, v in values.items() if k != lost})
        with pytest.raises(UsageError, match=message):
            layout.read_config(folder)


@pytest.mark.parametrize(
    ("component", "setting", "message"),
    [
        ("unet", {"_class_name": "UNet3DConditionModel"}, "_class_name is 'UNet3DConditionModel', but sdlab supports"),
        ("vae", {"_class_name": "AsymmetricAutoencoderKL"}, "supports only 'AutoencoderKL'"),
        ("vae", {"_class_name": None}, "_class_name is None"),
        ("text_encoder", {"model_type": "xlm-roberta"}, "supports only 'clip_text_model'"),
        ("text_encoder", {"model_type": "clip"}, "text_config must be a JSON object"),
        ("text_encoder", {"text_config": None}, "text_config must be a JSON object"),
        ("text_encoder", {"text_config": {"model_type": "t5"}}, "model_type is 't5'"),
        ("text_encoder", {"text_config": {"hidden_size": 32, "hidden_act": "gelu"}}, "hidden_act is 'gelu'"),
        ("unet", {"reverse_transformer_layers_per_block": [1, 2]}, "reverse_transformer_layers_per_block is"),
    ],
)
def test_networks_of_other_kinds_are_named(folder, component, setting, message):
    change(folder, component, lambda values: values | setting)
    refused(folder, message)


def test_flax_writes_the_same_settings(folder):
    wanted = layout.read_config(folder)
    for component in ("unet", "vae"):
        change(folder, component, lambda values: values | {"_class_name": f"Flax{values['_class_name']}"})
    assert layout.read_config(folder) == wanted


@pytest.mark.parametrize("depth", [2, 12])  # 12 is a default, which transformers may leave out
def test_the_text_encoder_may_be_a_complete_clip(tmp_path, depth):
    """As transformers writes it. The sizes of the text transformer are in `text_config` alone."""
    config = replace(NARROW, text=replace(NARROW.text, layers=depth))
    clip_vocabulary(tmp_path)
    write_with_config(tmp_path / "a.safetensors", config, random_weights(config))
    export(tmp_path / "a.safetensors", "diffusers", tmp_path / "plain")
    export(tmp_path / "a.safetensors", "diffusers", tmp_path / "whole")
    folder = tmp_path / "whole" / "text_encoder"
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                              image_size=28, patch_size=14)  # fmt: skip
    sizes = {k: v for k, v in layout.settings(config)["text_encoder"].items() if k != "vocab_size"}
    text = CLIPTextConfig(**sizes, projection_dim=32)
    whole = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=32))
    weights = load_file(folder / "model.safetensors")
    kept = {name: t for name, t in whole.state_dict().items() if not name.startswith("text_model.")}
    whole.load_state_dict(weights | kept)
    whole.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    assert "hidden_size" not in written
    assert written["text_config"]["hidden_size"] == 32
    plain, found = load(tmp_path / "plain"), load(tmp_path / "whole")
    assert found.config.text == config.text
    assert all(torch.equal(found.text.state_dict()[name], t) for name, t in plain.text.state_dict().items())
    (note,) = open_model(tmp_path / "whole").notes
    assert "that no network uses: 'logit_scale'" in note
    theirs = CLIPTextModel.from_pretrained(folder)
    tokens = found.tokenizer(["a cat"])
    with torch.no_grad():
        wanted = theirs(tokens).last_hidden_state
        torch.testing.assert_close(found.text(tokens), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("null", "must be a JSON object, got None"),
        ("[1]", r"must be a JSON object, got \[1\]"),
        ("[" * 100_000, "not JSON of a model: it is nested too deeply"),
        (f'{{"a": {"9" * 5000}}}', "not JSON of a model: an integer has too many digits"),
        ("{", "not JSON: Expecting property name enclosed in double quotes"),
    ],
)
def test_a_file_that_is_no_json_object_is_one_line(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_object(tmp_path / "config.json")
    assert len(caught.value.lines) == 1
