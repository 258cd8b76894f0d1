"""Token embeddings with more rows than the vocabulary has tokens, as tools pad them to a multiple of 8 or 64."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel
from user_files import NARROW, clip_vocabulary, random_weights, write_with_config

from sdlab.model.config import SCENES, ClipTextConfig, ModelConfig
from sdlab.model.stable_diffusion import networks
from sdlab.model.tokenizer import train_vocabulary
from sdlab.system.errors import SdlabError
from sdlab.weights.export import export
from sdlab.weights.model_folder import save_config, save_part
from sdlab.weights.model_loader import load, open_model
from sdlab.weights.vocabulary import write_vocabulary

pytestmark = pytest.mark.slow

CLIP_SIZE = 49408
VOCAB, MERGES = train_vocabulary(["a red circle above a blue square", "two green triangles"] * 3, 600)
ADDED = {"<my-cat>": CLIP_SIZE, "<my-cat>_1": CLIP_SIZE + 1}
TABLE = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"


@pytest.mark.parametrize(("multiple", "added"), [(8, ADDED), (64, {}), (512, ADDED)])
def test_a_text_encoder_that_transformers_has_padded(tmp_path, multiple, added):
    tokens = CLIP_SIZE + len(added)
    config = replace(NARROW, text=replace(NARROW.text, vocab_size=tokens, layers=2))
    clip_vocabulary(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    write_with_config(tmp_path / "a.safetensors", config, random_weights(config))
    export(tmp_path / "a.safetensors", "diffusers", tmp_path / "padded")
    theirs = CLIPTextModel.from_pretrained(tmp_path / "padded" / "text_encoder")
    theirs.resize_token_embeddings(tokens, pad_to_multiple_of=multiple, mean_resizing=False)
    theirs.save_pretrained(tmp_path / "padded" / "text_encoder")
    rows = -(-tokens // multiple) * multiple
    assert json.loads((tmp_path / "padded" / "text_encoder" / "config.json").read_text())["vocab_size"] == rows
    if rows - tokens > 256:
        with pytest.raises(SdlabError, match=f"has {tokens} tokens, but text.vocab_size of .* is {rows}"):
            open_model(tmp_path / "padded")
        return
    found, wanted = load(tmp_path / "padded"), load(tmp_path / "a.safetensors")
    assert found.config.text == wanted.config.text
    ids = found.tokenizer(["a <my-cat> and a dog", ""])
    assert torch.equal(found.text(ids), wanted.text(ids))
    torch.testing.assert_close(found.text(ids), theirs(ids).last_hidden_state, atol=1e-5, rtol=1e-5)
    note = (
        f"model.safetensors: ignored the last {rows - tokens} of {rows} token embeddings; "
        f"the vocabulary has {tokens} tokens"
    )
    assert open_model(tmp_path / "padded").notes == ((note,) if rows > tokens else ())


@pytest.mark.parametrize("configured", [False, True])
def test_a_single_file_that_is_padded(tmp_path, configured):
    clip_vocabulary(tmp_path)
    weights = random_weights(NARROW)
    wanted = weights[TABLE]
    padded = weights | {TABLE: torch.cat([wanted, torch.ones(56, 32)])}
    rows = CLIP_SIZE + 56 if configured else CLIP_SIZE
    config = replace(NARROW, text=replace(NARROW.text, vocab_size=rows))
    write_with_config(tmp_path / "a.safetensors", config, padded)
    found = load(tmp_path / "a.safetensors")
    assert torch.equal(found.text.token.weight, wanted)
    assert found.config == NARROW
    assert "ignored the last 56 of 49464 token embeddings" in open_model(tmp_path / "a.safetensors").notes[0]
    # What is written from it is not padded.
    export(tmp_path / "a.safetensors", "diffusers", tmp_path / "b")
    assert open_model(tmp_path / "b").notes == ()


@pytest.fixture
def folder(tmp_path):
    """A model folder of sdlab with a vision tower."""
    vision = replace(SCENES.vision, image_size=32, patch=16, width=16, layers=1, heads=2, projection=16)
    text = ClipTextConfig(len(VOCAB), context_length=16, width=16, layers=1, heads=2)
    unet = replace(SCENES.unet, width=8, multipliers=(1,), attention_rates=(1,), heads=2, context_width=16)
    vae = replace(SCENES.vae, width=8, multipliers=(1, 2))
    config = ModelConfig("tiny", 32, text, vision, vae, unet, SCENES.levels, "v")
    save_config(tmp_path, config)
    write_vocabulary(tmp_path, VOCAB, MERGES)
    for part, module in networks(config).items():
        module.to_empty(device="cpu")
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter)
        save_part(tmp_path / f"{part}.safetensors", module, torch.float32)
    return tmp_path


def resize(folder, rows):
    """Give the token embedding another number of rows. Returns the table as it was."""
    tensors = load_file(folder / "clip.safetensors")
    table = tensors["text.token.weight"]
    padded = torch.cat([table, torch.ones(max(rows - len(table), 0), 16)])[:rows]
    save_file(tensors | {"text.token.weight": padded.contiguous()}, folder / "clip.safetensors")
    return table


def test_a_complete_clip_of_a_model_folder_may_be_padded(folder):
    wanted = resize(folder, len(VOCAB) + 1)
    assert torch.equal(load(folder).text.token.weight, wanted)
    assert open_model(folder).notes == (
        f"clip.safetensors: ignored the last 1 of {len(VOCAB) + 1} token embeddings; "
        f"the vocabulary has {len(VOCAB)} tokens",
    )


@pytest.mark.parametrize("difference", [-1, -len(VOCAB), 257])
def test_a_table_of_another_size_is_one_line(folder, difference):
    resize(folder, len(VOCAB) + difference)
    with pytest.raises(SdlabError, match=r"'text.token.weight' has shape .*, but the configuration needs") as error:
        open_model(folder)
    assert "\n" not in str(error.value)
